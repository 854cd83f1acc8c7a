"""Training: from normalised spectra and a table of labels to a network of one's own."""
