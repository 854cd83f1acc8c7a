"""Benchmarks: the stream beside plain code that does the same work, in the same run."""
