"""The GPU's engine: kernels that Triton compiles."""
