"""Calibration: the noise model that repeat visits ask for."""
