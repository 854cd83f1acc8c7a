"""The explorer: one HTML file that shows results, by itself and without a network."""
