"""Watching a folder as a reduction fills it."""
