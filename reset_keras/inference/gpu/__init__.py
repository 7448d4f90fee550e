"""A kernel for GPUs, in JAX."""
