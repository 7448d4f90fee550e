"""The frozen network as one GPU kernel, in JAX."""
