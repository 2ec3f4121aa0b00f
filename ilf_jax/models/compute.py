"""How a model is computed, as opposed to what it is."""

import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Compute:
    """Static under jit; equal settings compile once.

    Attributes:
        dtype: of activations and matmul inputs; sums, softmax, norms and losses are float32.
        attention: what computes rows that stand by themselves (training, prefill): plain XLA, cuDNN's flash attention
            (NVIDIA, 16 bit), or TPU's splash attention, where a row's length allows it.
        mesh: the devices that splash attention is laid over.
    """

    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"
    mesh: Mesh | None = None


FLOAT32 = Compute()
"""Plain float32, on any device."""
