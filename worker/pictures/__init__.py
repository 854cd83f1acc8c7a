"""Pictures of results: plain functions from a sample, or a spectrum, to a figure."""
