"""Results: the noise model, the flags, and tables of labels."""
