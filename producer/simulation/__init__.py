"""A simulated survey whose truth is known: stars, their spectra, and the files that hold them."""
