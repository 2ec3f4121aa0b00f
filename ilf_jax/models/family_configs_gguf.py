"""GGUF metadata <-> ModelConfig. A setting that ModelConfig cannot express raises InputError with key and value."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.models import rope_configs
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.config_values import Keys, explained, short
from ilf_jax.models.family_configs import comparable, layer_windows, learned_fields
from ilf_jax.models.family_facts import FIXED, GGUF_SETTINGS, PARTLY_ROTATED, ROOT_SCALED_EMBEDDINGS

# No architecture of their own: Mistral is written as llama.
_FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "granite", "smollm3", "gpt2")
_THETAS = {"gemma3": 1_000_000.0}
# GGUF has no key for Gemma's query scale. Readers hard-code that of the 27B models, by their number of layers.
_SCALED_BY_WIDTH = {("gemma2", 46), ("gemma3", 62)}
_SLIDING_PATTERNS = {"gemma2": 2, "gemma3": 6}
_WRITTEN_AS = {"mistral": "llama"}
_SLIDING = (*_SLIDING_PATTERNS, "phi3")
_SMOLLM3_INTERVAL = 4  # every fourth layer has no rotary positions; GGUF has no key for it


def from_gguf(
    meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_tensors: Mapping[str, np.ndarray], where: str
) -> ModelConfig:
    """ModelConfig of GGUF metadata.

    Args:
        meta: key -> value, as in the file.
        shapes: tensor name -> numpy shape; gives what the metadata lacks (vocabulary size, biases, tied embeddings).
        rope_tensors: those of `rope_configs.GGUF_TENSORS` that the file has.
        where: the file, for messages.

    Raises:
        InputError: the architecture is unknown, a key is missing, or has a value that is wrong or that ModelConfig
            cannot express.
    """
    family = meta.get("general.architecture")
    if family not in _FAMILIES:
        hint = " (OPT has no GGUF architecture; use its safetensors)" if family == "opt" else ""
        raise InputError(f"{where}: general.architecture = {short(family)}{hint}; allowed: {', '.join(_FAMILIES)}")
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
            fields = {
                "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_layers": layers,
                "num_heads": heads, "num_kv_heads": keys("attention.head_count_kv", heads),
                **_rms(keys, family, shapes, rope_tensors, hidden, layers, heads),
            }
        return ModelConfig(family=family, tied_embeddings="output.weight" not in shapes, **fields)


def _rms(
    keys: Keys, family: str, shapes: Mapping[str, tuple[int, ...]], rope_tensors: Mapping[str, np.ndarray], hidden: int,
    layers: int, heads: int,
) -> dict[str, Any]:
    rotated = keys("rope.dimension_count", None)
    head_dim = keys("attention.key_length", hidden // heads if family in PARTLY_ROTATED else rotated or hidden // heads)
    rotated = rotated or head_dim
    needed = {"attention.value_length": head_dim, "expert_count": 0}
    if family not in PARTLY_ROTATED:
        needed["rope.dimension_count"] = head_dim
    for key, value in needed.items():
        if keys(key, value) != value:
            raise keys.refuse(key, keys(key), repr(value))
    has_bias = {t: f"blk.0.{t}.bias" in shapes for t in ("attn_q", "attn_output", "ffn_up")}
    fields = {
        "head_dim": head_dim, "norm_eps": keys("attention.layer_norm_rms_epsilon"), **FIXED[family],
        "qkv_bias": has_bias["attn_q"], "output_bias": has_bias["attn_output"], "mlp_bias": has_bias["ffn_up"],
        **{s.field: s.load(keys(s.key, s.default)) for s in GGUF_SETTINGS.get(family, ())},
        **rope_configs.from_gguf(keys, rotated, rope_tensors, _THETAS.get(family, 10_000.0)),
        **_gguf_sliding(keys, family, layers),
    }
    if rotated != head_dim:
        fields["rotary_dim"] = rotated
    if family == "smollm3":
        fields["unrotated_layers"] = tuple(range(_SMOLLM3_INTERVAL - 1, layers, _SMOLLM3_INTERVAL))
    if family == "granite":
        fields["query_scale"] = float(keys("attention.scale", 0.0)) or None  # llama.cpp takes 0 for "as usual"
    if family in ROOT_SCALED_EMBEDDINGS:
        fields |= {
            "embedding_scale": math.sqrt(hidden), "activation": "gelu_tanh",
            "query_scale": (hidden // heads if (family, layers) in _SCALED_BY_WIDTH else head_dim) ** -0.5,
        }
    if family == "gemma3":
        fields["rope_local_theta"] = keys("rope.freq_base_swa", 10_000.0)
    return fields


def _gguf_sliding(keys: Keys, family: str, layers: int) -> dict[str, Any]:
    window = keys("attention.sliding_window", None)
    if family in _SLIDING_PATTERNS:
        pattern = keys("attention.sliding_window_pattern", _SLIDING_PATTERNS[family])
        if isinstance(pattern, list):
            return layer_windows(window, [bool(p) for p in pattern])
        return layer_windows(window, [bool((i + 1) % pattern) for i in range(layers)])
    if not window or window >= keys("context_length"):
        return {}
    if family == "phi3":
        return layer_windows(window, [True] * layers)
    raise keys.refuse("attention.sliding_window", window, "0, for GGUF does not say which layers of this family slide")


def to_gguf(c: ModelConfig) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The architecture's name in GGUF, the metadata under that name, and the tensors that hold rotary scaling.

    Raises:
        InputError: GGUF has no such architecture, or cannot say a field of `c`.
    """
    arch = _WRITTEN_AS.get(c.family, c.family)
    if arch not in _FAMILIES:
        raise InputError(f"GGUF: there is no architecture for {c.family}; allowed are "
                         f"{', '.join(sorted({*_FAMILIES, *_WRITTEN_AS}))}")
    keys: dict[str, Any] = {
        "context_length": c.max_positions, "embedding_length": c.hidden_size, "block_count": c.num_layers,
        "feed_forward_length": c.intermediate_size, "attention.head_count": c.num_heads, "vocab_size": c.vocab_size,
    }
    tensors: dict[str, np.ndarray] = {}
    if arch == "gpt2":
        keys["attention.layer_norm_epsilon"] = c.norm_eps
    else:
        rope, tensors = rope_configs.to_gguf(c)
        keys |= {
            **rope, "attention.head_count_kv": c.num_kv_heads, "attention.layer_norm_rms_epsilon": c.norm_eps,
            "attention.key_length": c.head_dim, "attention.value_length": c.head_dim,
            **{s.key: s.save(getattr(c, s.field)) for s in GGUF_SETTINGS.get(arch, ())},
        }
    if arch == "granite" and c.query_scale is not None:
        keys["attention.scale"] = c.query_scale
    if arch == "gemma3":
        keys["rope.freq_base_swa"] = c.rope_local_theta if c.rope_local_theta is not None else c.rope_theta
    if arch in _SLIDING and c.sliding_window is not None:
        keys["attention.sliding_window"] = c.sliding_window
    _check_said(c, arch, keys, tensors)
    return arch, {f"{arch}.{key}": value for key, value in keys.items()}, tensors


def _check_said(c: ModelConfig, arch: str, keys: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Raises InputError if what `to_gguf` writes would be read as another architecture."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (c.vocab_size, c.hidden_size)}
    others = {"output.weight": not c.tied_embeddings, "blk.0.attn_q.bias": c.qkv_bias,
              "blk.0.attn_output.bias": c.output_bias, "blk.0.ffn_up.bias": c.mlp_bias}
    shapes |= {name: () for name, there in others.items() if there}
    meta = {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in keys.items()}}
    if arch == "gemma2" and not (c.attention_softcap and c.logit_softcap):  # llama.cpp divides by them
        raise InputError("GGUF: gemma2 needs attention_softcap and logit_softcap above 0")
    read, original = (comparable(config) for config in (from_gguf(meta, shapes, tensors, "GGUF"), c))
    if lost := [k for k in original if original[k] != read[k] and k != "family"]:
        raise InputError(f"GGUF: a file of the architecture {arch} cannot say "
                         + ", ".join(f"{k} = {original[k]!r}" for k in lost))
