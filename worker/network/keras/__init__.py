"""astroNN's own folders of Keras weights, and their conversion."""
