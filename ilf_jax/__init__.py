"""ILF, imitation learning from language feedback, in JAX.

    import ilf_jax
    config = ilf_jax.base_config()
    config.data.source = "jsonl:reviews.jsonl"
    metrics = ilf_jax.run(config, "runs/reviews")
"""

import os
from collections.abc import Mapping
from typing import Any

from ilf_jax.config import Config, base_config
from ilf_jax.errors import InputError
from ilf_jax.version import __version__

__all__ = ["InputError", "__version__", "base_config", "run"]


def run(config: Config | Mapping[str, Any], workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Runs or resumes a whole ILF run; returns the lines of metrics.jsonl. See `ilf_jax.ilf.run`."""
    from ilf_jax import ilf  # jax is loaded only by those who run something: reports need none

    return ilf.run(config, workdir)
