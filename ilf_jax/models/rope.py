"""Rotary positions (Su et al. 2021): how far each position turns queries and keys."""

import math

import jax
import jax.numpy as jnp

from ilf_jax.models.architecture import ModelConfig, RopeScaling

Rotation = tuple[jax.Array, jax.Array]
"""Cosines and sines, B x C x L x 1 x head_dim/2, of the angles by which positions turn queries and keys."""


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> jax.Array:
    """Rotary frequencies, head_dim / 2 of them, in radians a position (Su et al. 2021, eq. 15).

    Under `llama3` scaling, wavelengths above original / low_freq_factor are stretched by `factor`, those below
    original / high_freq_factor kept, the ones between blended linearly.
    """
    freqs = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is None:
        return freqs
    if scaling.kind == "linear":
        return freqs / scaling.factor
    wavelengths = 2 * math.pi / freqs
    ratio = scaling.original_max_positions / wavelengths
    blend = (ratio - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = jnp.clip(blend, 0.0, 1.0)
    return (1 - blend) * freqs / scaling.factor + blend * freqs


def rotation(config: ModelConfig, slides: bool, positions_BxCxL: jax.Array) -> Rotation | None:
    """The rotation of one kind of layer; None for a model without rotary positions.

    Args:
        slides: whether the layers have a sliding window, and so Gemma 3's local theta.
    """
    if config.position != "rope":
        return None
    if slides and config.rope_local_theta is not None:
        freqs = rope_frequencies(config.head_dim, config.rope_local_theta, None)
    else:
        freqs = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    angles = positions_BxCxL[..., None, None].astype(jnp.float32) * freqs
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the two halves of x's last axis; cos and sin are B x C x L x 1 x head_dim/2."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
