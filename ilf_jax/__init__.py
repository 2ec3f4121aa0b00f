"""ILF in JAX."""
