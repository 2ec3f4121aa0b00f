"""Rotary positions (Su et al. 2021): how far each position turns queries and keys."""

import math

import jax
import jax.numpy as jnp

from ilf_jax.models.architecture import ModelConfig, RopeScaling
from ilf_jax.runtime import barriers

Rotation = tuple[jax.Array, jax.Array]
"""Cosines and sines, B x C x L x 1 x frequencies, of the angles by which positions turn queries and keys."""


def rope_frequencies(dim: int, theta: float, scaling: RopeScaling | None) -> jax.Array:
    """Rotary frequencies of `dim` dimensions, dim / 2 of them, in radians a position (Su et al. 2021, eq. 15).

    Under `llama3` scaling, wavelengths above original / low_freq_factor are stretched by `factor`, those below
    original / high_freq_factor kept, the ones between blended linearly. For the others see `RopeScaling`.
    """
    freqs = theta ** -(jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    if scaling is None or scaling.kind == "dynamic":
        return freqs
    if scaling.kind == "linear":
        return freqs / scaling.factor
    if scaling.kind == "longrope":
        return freqs / jnp.asarray(scaling.short_factors, jnp.float32)
    if scaling.kind == "yarn":
        kept = _yarn_kept(dim, theta, scaling)
        return freqs / scaling.factor * (1 - kept) + freqs * kept
    wavelengths = 2 * math.pi / freqs
    ratio = scaling.original_max_positions / wavelengths
    blend = (ratio - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = jnp.clip(blend, 0.0, 1.0)
    return (1 - blend) * freqs / scaling.factor + blend * freqs


def _yarn_kept(dim: int, theta: float, scaling: RopeScaling) -> jax.Array:
    """By frequency, how much of it YaRN keeps: 1 all, 0 none (Peng et al. 2023, eqs. 15 and 19, by dimension)."""

    def dimension(turns: float) -> float:
        return dim * math.log(scaling.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a step in place of a slope
    return 1 - jnp.clip((jnp.arange(dim // 2, dtype=jnp.float32) - low) / (high - low), 0.0, 1.0)


def rotation(config: ModelConfig, slides: bool, positions_BxCxL: jax.Array) -> Rotation | None:
    """The rotation of one kind of layer; None for a model without rotary positions.

    Behind a barrier: XLA would fuse sines and cosines into every layer, and compute them there again.

    Args:
        slides: whether the layers have a sliding window, and so Gemma 3's local theta.
    """
    if config.position != "rope":
        return None
    theta, scaling = config.rope_theta, config.rope_scaling
    if slides and config.rope_local_theta is not None:
        theta, scaling = config.rope_local_theta, None
    freqs = rope_frequencies(config.rotated, theta, scaling)
    angles = positions_BxCxL[..., None, None].astype(jnp.float32) * freqs
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if scaling is not None and scaling.attention_factor != 1.0:
        cos, sin = cos * scaling.attention_factor, sin * scaling.attention_factor
    return barriers.materialise((cos, sin))


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the two halves of the first R of x's last axis; cos and sin are B x C x L x 1 x R/2."""
    rotated = 2 * cos.shape[-1]
    if rotated < x.shape[-1]:
        return jnp.concatenate([apply_rope(x[..., :rotated], cos, sin), x[..., rotated:]], axis=-1)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
