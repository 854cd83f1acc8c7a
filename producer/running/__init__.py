"""`run`, and the stack that it brings up for itself."""
