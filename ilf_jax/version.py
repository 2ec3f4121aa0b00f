"""The versions that setup.py reads: of this package, and of jax that it was tested with."""

__version__ = "0.1.0"
JAX_VERSIONS = ">=0.10.2,<0.13"
"""`runtime.distributed` uses private parts of jax, so a new minor version is tested before it is allowed."""
