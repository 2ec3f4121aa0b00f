"""GGUF metadata -> ModelConfig. A setting that ModelConfig cannot express raises InputError with key and value."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.models.architecture import ModelConfig, RopeScaling
from ilf_jax.models.config_values import Keys, explained
from ilf_jax.models.family_configs import gemma_fields, layer_windows, learned_fields

_GGUF_RMS = ("llama", "qwen2", "qwen3", "gemma3")


def from_gguf(
    meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_freqs: np.ndarray | None, where: str
) -> ModelConfig:
    """ModelConfig of GGUF metadata.

    Args:
        meta: key -> value, as in the file.
        shapes: tensor name -> numpy shape; gives what the metadata lacks (vocabulary size, biases, tied embeddings).
        rope_freqs: the tensor rope_freqs.weight (head_dim / 2 divisors of the rotary frequencies), or None.
        where: the file, for messages.

    Raises:
        InputError: the architecture is unknown, a key is missing, or has a value that is wrong or that ModelConfig
            cannot express.
    """
    family = meta.get("general.architecture")
    if family not in (*_GGUF_RMS, "gpt2"):
        hint = " (OPT has no GGUF architecture; use its safetensors)" if family == "opt" else ""
        allowed = ", ".join((*_GGUF_RMS, "gpt2"))
        raise InputError(f"{where}: general.architecture = {family!r}{hint}; allowed: {allowed}")
    keys = Keys({k.removeprefix(f"{family}."): v for k, v in meta.items()}, where)
    if "token_embd.weight" not in shapes:
        raise InputError(f"{where}: the tensor token_embd.weight is missing")
    vocab, hidden = shapes["token_embd.weight"][0], keys("embedding_length")
    layers, heads, inner = keys("block_count"), keys("attention.head_count"), keys("feed_forward_length")
    with explained(where):
        if family == "gpt2":
            fields = learned_fields(vocab, hidden, inner, layers, heads, keys("context_length"))
            fields |= {"norm_eps": keys("attention.layer_norm_epsilon"), "activation": "gelu_tanh"}
        else:
            head_dim = keys("attention.key_length", keys("rope.dimension_count", hidden // heads))
            for key, needed in {
                "attention.value_length": head_dim, "rope.dimension_count": head_dim, "expert_count": 0,
            }.items():
                if keys(key, needed) != needed:
                    raise keys.refuse(key, keys(key), repr(needed))
            has_bias = {t: f"blk.0.{t}.bias" in shapes for t in ("attn_q", "attn_output", "ffn_up")}
            fields = {
                "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_layers": layers,
                "num_heads": heads, "num_kv_heads": keys("attention.head_count_kv", heads), "head_dim": head_dim,
                "max_positions": keys("context_length"), "norm_eps": keys("attention.layer_norm_rms_epsilon"),
                "qkv_bias": has_bias["attn_q"], "output_bias": has_bias["attn_output"],
                "mlp_bias": has_bias["ffn_up"], "qk_norm": family in ("qwen3", "gemma3"),
                **_gguf_rope(keys, head_dim, rope_freqs, 1_000_000.0 if family == "gemma3" else 10_000.0),
                **(_gguf_gemma(keys, hidden, layers, heads, head_dim) if family == "gemma3" else {}),
            }
            if family != "gemma3" and 0 < keys("attention.sliding_window", 0) < fields["max_positions"]:
                raise keys.refuse("attention.sliding_window", keys("attention.sliding_window"), "0")
        return ModelConfig(family=family, tied_embeddings="output.weight" not in shapes, **fields)


def _gguf_gemma(keys: Keys, hidden: int, layers: int, heads: int, head_dim: int) -> dict[str, Any]:
    # GGUF has no key for the query scale. Only the 27B model (62 layers) differs, and readers hard-code that.
    scale = (hidden // heads if layers == 62 else head_dim) ** -0.5
    pattern = keys("attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):
        slides = [bool(p) for p in pattern]
    else:
        slides = [bool((i + 1) % pattern) for i in range(layers)]
    return gemma_fields(hidden) | layer_windows(keys, keys("attention.sliding_window", None), slides) | {
        "activation": "gelu_tanh", "query_scale": scale, "rope_local_theta": keys("rope.freq_base_swa", 10_000.0),
        "logit_softcap": float(keys("final_logit_softcapping", 0.0)),
    }


def _gguf_rope(keys: Keys, head_dim: int, freqs: np.ndarray | None, default_theta: float) -> dict[str, Any]:
    theta = float(keys("rope.freq_base", default_theta))
    kind = keys("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise keys.refuse("rope.scaling.type", kind, "none, linear")
    factor = float(keys("rope.scaling.factor", keys("rope.scale_linear", 1.0)))
    scaling = RopeScaling("linear", factor) if factor not in (0.0, 1.0) else None
    if freqs is not None and not np.allclose(freqs, 1.0):
        if scaling is not None:
            raise keys.refuse("rope.scaling.factor", factor, "1.0 if the file has rope_freqs.weight")
        scaling = _llama3_from_freqs(keys, head_dim, theta, freqs)
    return {"rope_theta": theta, "rope_scaling": scaling}


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
