"""The CPU's engine: kernels that numba compiles."""
