"""Inference: spectra gathered into batches for the engine."""
