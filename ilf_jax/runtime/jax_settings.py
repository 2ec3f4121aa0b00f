"""Settings of jax that every program of ours makes before it computes anything."""

import os
import pathlib

import jax

KEPT_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""Compiler options for CPUs, whose backend otherwise drops each `optimization_barrier` before it fuses operations.

What is rematerialised is then kept after all, and what layers share is computed again in each of them.
"""


def apply(precision: str) -> None:
    """Compiled programs outlive the process, and float32 means float32.

    Args:
        precision: config.precision.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # where the user has not said otherwise
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "ilf_jax" / "compiled"))
    if precision == "float32" and jax.default_backend() != "cpu":
        # Accelerators would otherwise round the inputs of float32 matmuls (TF32, bfloat16).
        jax.config.update("jax_default_matmul_precision", "highest")
