"""Settings of jax, XLA and Python that every program makes before it computes anything.

The compiler options and `freeze_imports` are tricks. Each stays only as long as it pays: `python benchmarks/tricks.py`
measures them against leaving them out, and benchmarks/RESULTS.md has the results.
"""

import gc
import os
import pathlib

import jax

KEPT_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""Compiler options for CPUs, whose backend otherwise drops the barriers that `jax.checkpoint` sets.

Without them, XLA merges what is recomputed with what it was computed from, and keeps it: config.finetune.remat then
saves no memory. Measured as `kept_barriers` and `kept_barriers_remat`.
"""


def train_step_on_cpu(remat: str) -> dict[str, str]:
    """Compiler options of the train step on CPUs.

    Operations are ordered for little memory, not for concurrency: SmolLM2-135M takes 7 to 22 % less temporary memory,
    in the same time. With remat 'full' it would take twice as much. Measured as `memory_scheduler`.

    Args:
        remat: as in config.finetune.remat.
    """
    scheduler = {} if remat == "full" else {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return {**KEPT_BARRIERS, **scheduler}


def apply(precision: str) -> None:
    """Keeps compiled programs beyond the process, and makes float32 mean float32.

    Args:
        precision: config.precision.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the user's choice
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "ilf_jax" / "compiled"))
    # All programs, the quick ones too: a run has hundreds of those, and they add up to seconds at each start.
    for variable, option, value in (
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "jax_persistent_cache_min_compile_time_secs", 0.0),
        ("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        if variable not in os.environ:
            jax.config.update(option, value)
    if precision == "float32" and jax.default_backend() != "cpu":
        # Accelerators would otherwise round the inputs of float32 matmuls (TF32, bfloat16).
        jax.config.update("jax_default_matmul_precision", "highest")


def freeze_imports() -> None:
    """Takes all objects that exist now out of garbage collection. Called once everything is imported.

    Modules and their contents live as long as the process, but each of the many collections that tracing triggers would
    go through them. Measured as `freeze_imports`.
    """
    gc.freeze()
