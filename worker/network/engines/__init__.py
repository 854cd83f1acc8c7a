"""Engines: Monte Carlo dropout of the network on a device."""
