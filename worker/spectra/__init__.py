"""Spectra: reading apStar files and normalising the continuum, as plain functions of arrays."""
