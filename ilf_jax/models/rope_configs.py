"""Rotary positions in the configs of checkpoints: HF config.json <-> fields of ModelConfig, GGUF metadata -> fields."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.models.architecture import ModelConfig, RopeScaling
from ilf_jax.models.config_values import Keys
from ilf_jax.models.family_facts import PARTLY_ROTATED

GGUF_TENSORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors of a GGUF file that are facts about its rotary positions."""
_HF_KINDS = ("default", "linear", "llama3", "yarn", "longrope", "dynamic")


def from_hf(keys: Keys, family: str, head_dim: int) -> dict[str, Any]:
    """The rotary fields of ModelConfig, `max_positions` among them.

    Reads `rope_parameters` (transformers 5) or the older keys.

    Raises:
        InputError: a kind of scaling that is unknown, or unknown for this family.
    """
    full: Mapping[str, Any] = keys("rope_parameters", {})
    local: Mapping[str, Any] = {}
    if "full_attention" in full:
        full, local = full["full_attention"], full.get("sliding_attention") or {}
    rope = {**keys("rope_scaling", {}), **full}
    scaling = _scaling(keys, family, rope)
    context = keys("max_position_embeddings")
    if scaling is not None and scaling.kind == "longrope":
        context = min(context, scaling.original_max_positions)
    theta = float(rope.get("rope_theta", keys("rope_theta")))
    fields: dict[str, Any] = {"max_positions": context, "rope_theta": theta, "rope_scaling": scaling}
    part = rope.get("partial_rotary_factor", keys("partial_rotary_factor", 1.0))
    if part != 1.0:
        if family not in PARTLY_ROTATED:
            raise keys.refuse("partial_rotary_factor", part, "1.0")
        fields["rotary_dim"] = int(head_dim * part)
    if family == "gemma3":
        if local.get("rope_type", "default") != "default":
            raise keys.refuse("rope_parameters.sliding_attention.rope_type", local["rope_type"], "default")
        fields["rope_local_theta"] = float(local.get("rope_theta", keys("rope_local_base_freq")))
    return fields


def _scaling(keys: Keys, family: str, rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if family == "phi3" and kind in ("su", "yarn"):  # longrope's names in the first Phi-3 checkpoints
        kind = "longrope"
    if kind in (None, "default"):
        return None
    if kind not in _HF_KINDS:
        raise keys.refuse("rope_scaling", kind, ", ".join(_HF_KINDS))
    if kind == "dynamic" and rope.get("alpha"):
        raise keys.refuse("rope_scaling.alpha", rope["alpha"], "none")
    if kind in ("linear", "dynamic"):
        return RopeScaling(kind, float(rope["factor"]))
    context = keys("max_position_embeddings")
    original = int(keys("original_max_position_embeddings", rope.get("original_max_position_embeddings", context)))
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return RopeScaling("llama3", float(rope["factor"]), low, high, original)
    factor = float(rope.get("factor") or context / original)
    attention = rope.get("attention_factor")
    if kind == "longrope":
        if attention is None:
            attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        short, long = (tuple(float(f) for f in rope[name]) for name in ("short_factor", "long_factor"))
        return RopeScaling("longrope", factor, original_max_positions=original, attention_factor=float(attention),
                           short_factors=short, long_factors=long)
    if attention is None:
        above, below = rope.get("mscale"), rope.get("mscale_all_dim")
        if not (above and below):
            above, below = 1.0, 0.0
        attention = yarn_attention_factor(factor, above) / yarn_attention_factor(factor, below)
    return RopeScaling(
        "yarn", factor, original_max_positions=original, attention_factor=float(attention),
        beta_fast=float(rope.get("beta_fast") or 32), beta_slow=float(rope.get("beta_slow") or 1),
        truncate=bool(rope.get("truncate", True)),
    )


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """What cosines and sines are multiplied by (Peng et al. 2023, section 3.4)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def to_hf(c: ModelConfig) -> dict[str, Any]:
    """The keys of config.json, the older ones and `rope_parameters`; `max_position_embeddings` among them."""
    rope: dict[str, Any] = {"rope_type": "default"}
    out: dict[str, Any] = {"max_position_embeddings": c.max_positions, "rope_theta": c.rope_theta}
    s = c.rope_scaling
    if s is not None:
        rope = {"rope_type": s.kind, "factor": s.factor}
        if s.kind in ("llama3", "yarn", "longrope"):
            rope["original_max_position_embeddings"] = s.original_max_positions
        if s.kind == "llama3":
            rope |= {"low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor}
        if s.kind == "yarn":
            rope |= {"beta_fast": s.beta_fast, "beta_slow": s.beta_slow, "truncate": s.truncate}
        if s.kind in ("yarn", "longrope"):
            rope["attention_factor"] = s.attention_factor
        if s.kind == "longrope":
            rope |= {"short_factor": list(s.short_factors), "long_factor": list(s.long_factors)}
            out["max_position_embeddings"] = max(c.max_positions, round(s.original_max_positions * s.factor))
    if c.family == "phi3":  # transformers takes this key before the one within
        out["original_max_position_embeddings"] = c.max_positions if s is None else s.original_max_positions
    out["rope_scaling"] = None if s is None else rope
    if c.rotary_dim is not None:
        out["partial_rotary_factor"] = rope["partial_rotary_factor"] = c.rotary_dim / c.head_dim
    out["rope_parameters"] = {**rope, "rope_theta": c.rope_theta}
    if c.family == "gemma3":
        local = c.rope_local_theta if c.rope_local_theta is not None else c.rope_theta
        out["rope_local_base_freq"] = local
        out["rope_parameters"] = {
            "full_attention": out["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    return out


def from_gguf(keys: Keys, rotated: int, tensors: Mapping[str, np.ndarray], default_theta: float) -> dict[str, Any]:
    """The rotary fields of ModelConfig, `max_positions` among them.

    Args:
        keys: the metadata.
        rotated: how many of a head's dimensions are rotated.
        tensors: those of `GGUF_TENSORS` that the file has.
        default_theta: of the family.

    Raises:
        InputError: scaling of an unknown kind, or of two kinds.
    """
    theta, context = float(keys("rope.freq_base", default_theta)), keys("context_length")
    scaling = _gguf_scaling(keys, tensors)
    freqs = tensors.get("rope_freqs.weight")
    if freqs is not None and not np.allclose(freqs, 1.0):
        if scaling is not None:
            raise keys.refuse("rope.scaling.factor", scaling.factor, "1.0 if the file has rope_freqs.weight")
        scaling = _llama3_from_freqs(keys, rotated, theta, freqs)
    if scaling is not None and scaling.kind == "longrope":
        context = min(context, scaling.original_max_positions)
    return {"max_positions": context, "rope_theta": theta, "rope_scaling": scaling}


def to_gguf(c: ModelConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata keys without the family's name, `context_length` among them, and tensors: what `from_gguf` reads."""
    s = c.rope_scaling
    keys: dict[str, Any] = {"context_length": c.max_positions, "rope.freq_base": c.rope_theta,
                            "rope.dimension_count": c.rotary_dim or c.head_dim}
    if s is None:
        return keys, {}
    if s.kind == "llama3":
        return keys, {"rope_freqs.weight": _llama3_freqs(c.head_dim, c.rope_theta, s)}
    if s.kind == "longrope":
        keys |= {"context_length": round(s.original_max_positions * s.factor),
                 "rope.scaling.original_context_length": s.original_max_positions,
                 "rope.scaling.attn_factor": s.attention_factor}
        return keys, {f"rope_factors_{name}.weight": np.array(factors)
                      for name, factors in (("short", s.short_factors), ("long", s.long_factors))}
    keys |= {"rope.scaling.type": s.kind, "rope.scaling.factor": s.factor}
    if s.kind == "yarn":
        keys |= {"rope.scaling.original_context_length": s.original_max_positions,
                 "rope.scaling.yarn_beta_fast": s.beta_fast, "rope.scaling.yarn_beta_slow": s.beta_slow}
    return keys, {}


def _llama3_freqs(head_dim: int, theta: float, s: RopeScaling) -> np.ndarray:
    """The divisor of each frequency, head_dim / 2, by Llama 3's rule."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    blend = (s.original_max_positions / wavelengths - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    blend = np.clip(blend, 0, 1)
    return 1 / ((1 - blend) / s.factor + blend)


def _gguf_scaling(keys: Keys, tensors: Mapping[str, np.ndarray]) -> RopeScaling | None:
    kind = keys("rope.scaling.type", "none")
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise keys.refuse("rope.scaling.type", kind, "none, linear, yarn, longrope")
    factor = float(keys("rope.scaling.factor", keys("rope.scale_linear", 1.0)))
    original = int(keys("rope.scaling.original_context_length", keys("context_length")))
    attention = float(keys("rope.scaling.attn_factor", 1.0))
    short, long = (tensors.get(f"rope_factors_{name}.weight") for name in ("short", "long"))
    if short is not None and long is not None:
        return RopeScaling(
            "longrope", keys("context_length") / original, original_max_positions=original, attention_factor=attention,
            short_factors=tuple(map(float, short.reshape(-1))), long_factors=tuple(map(float, long.reshape(-1))),
        )
    if kind == "longrope":
        raise InputError(f"{keys.where}: rope.scaling.type = longrope, but the file has no rope_factors_short.weight "
                         f"and rope_factors_long.weight")
    if kind == "yarn":
        for key, needed in {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0,
                            "yarn_log_multiplier": 0.0}.items():
            if not math.isclose(keys(f"rope.scaling.{key}", needed), needed):
                raise keys.refuse(f"rope.scaling.{key}", keys(f"rope.scaling.{key}"), f"{needed} with yarn")
        return RopeScaling(
            "yarn", factor, original_max_positions=original, attention_factor=yarn_attention_factor(factor),
            beta_fast=float(keys("rope.scaling.yarn_beta_fast", 32.0)),
            beta_slow=float(keys("rope.scaling.yarn_beta_slow", 1.0)),
        )
    return RopeScaling("linear", factor) if factor not in (0.0, 1.0) else None


def _llama3_from_freqs(keys: Keys, head_dim: int, theta: float, divisors: np.ndarray) -> RopeScaling:
    """Recovers Llama 3's rope scaling from GGUF, which stores it as one divisor per frequency.

    The divisors determine only two ratios of (low, high, original). Llama 3 uses low 1 and high 4, so one blended
    frequency gives `original`: blend = (original / wavelength - 1) / 3.
    """
    divisors = divisors.astype(np.float64).reshape(-1)
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    factor = float(divisors.max())
    blend = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    mixed = np.flatnonzero((blend > 0.01) & (blend < 0.99))
    original = int(np.rint(((1 + 3 * blend) * wavelengths)[mixed[0]])) if mixed.size else 8192
    scaling = RopeScaling("llama3", factor, 1.0, 4.0, original)
    blend = np.clip((original / wavelengths - 1) / 3, 0, 1)
    if divisors.shape != wavelengths.shape or not np.allclose(1 / divisors, (1 - blend) / factor + blend, rtol=1e-4):
        raise InputError(f"{keys.where}: rope_freqs.weight is not Llama 3's scaling (low 1, high 4)")
    return scaling
