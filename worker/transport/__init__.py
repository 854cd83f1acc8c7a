"""Redis: what lies in it and how it is reached."""
