"""What is known of weights: reading, describing and verifying them."""
