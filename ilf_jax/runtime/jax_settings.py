"""Settings of jax, XLA and Python that every program makes before it computes anything.

What depends on the kind of device, `hardware` knows. `freeze_imports` is a trick. It stays only as long as it pays:
`python benchmarks/tricks.py` measures it against leaving it out, and benchmarks/RESULTS.md has the results.
"""

import gc
import os
import pathlib

import jax

from ilf_jax.runtime import hardware


def apply(precision: str) -> None:
    """Sets XLA's flags, keeps compiled programs beyond the process, and makes float32 mean float32.

    Flags for small models only are set before, see `hardware.set_xla_flags`.

    Args:
        precision: config.precision.
    """
    hardware.set_xla_flags()
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
