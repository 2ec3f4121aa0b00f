"""ILF, imitation learning from language feedback, in JAX.

    import ilf_jax
    config = ilf_jax.base_config()
    config.data.source = "jsonl:reviews.jsonl"
    metrics = ilf_jax.run(config, "runs/reviews")
"""

from ilf_jax.config import base_config
from ilf_jax.errors import InputError
from ilf_jax.ilf import run

__all__ = ["InputError", "base_config", "run"]
