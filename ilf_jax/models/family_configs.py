"""HF config.json <-> ModelConfig. A setting that ModelConfig cannot express raises InputError with key and value."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.models import float8
from ilf_jax.models.architecture import ModelConfig, RopeScaling
from ilf_jax.models.config_values import Keys, check_value, explained

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3", "gpt2", "opt")
_MODEL_TYPES = {**{f: f for f in FAMILIES}, "gemma3_text": "gemma3"}
_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}

# Defaults of transformers for keys that a config.json leaves out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_position_embeddings": 2048},
    "qwen2": {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_position_embeddings": 32768},
    "qwen3": {
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_position_embeddings": 32768, "head_dim": 128,
    },
    "gemma3": {
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "max_position_embeddings": 131072, "head_dim": 256,
        "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    "gpt2": {"tie_word_embeddings": True, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    "opt": {"tie_word_embeddings": True, "activation_function": "relu", "enable_bias": True},
}

# Settings that change the model's output and that we do not implement: key -> the value that means "off". A missing
# key means "off" too.
_MUST_BE: dict[str, dict[str, Any]] = {
    "llama": {"partial_rotary_factor": 1.0},
    "qwen2": {},
    "qwen3": {},
    "gemma3": {"attn_logit_softcapping": None, "use_bidirectional_attention": False},
    "gpt2": {
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    },
    "opt": {"do_layer_norm_before": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False},
}


def _rope_scaling(keys: Keys, key: str, rope: Mapping[str, Any], max_positions: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in (None, "default"):
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        original = int(rope.get("original_max_position_embeddings", max_positions))
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return RopeScaling("llama3", float(rope["factor"]), low, high, original)
    raise keys.refuse(key, kind, "default, linear, llama3")


def _hf_rope(keys: Keys, family: str) -> dict[str, Any]:
    """The rope fields of ModelConfig, from `rope_parameters` (transformers 5) or the older keys."""
    full: Mapping[str, Any] = keys("rope_parameters", {})
    local: Mapping[str, Any] = {}
    if "full_attention" in full:
        full, local = full["full_attention"], full.get("sliding_attention") or {}
    classic = keys("rope_scaling", {})
    scaling = _rope_scaling(keys, "rope_scaling", {**classic, **full}, keys("max_position_embeddings"))
    theta = full.get("rope_theta", keys("rope_theta", 10_000.0))
    fields: dict[str, Any] = {"rope_theta": float(theta), "rope_scaling": scaling}
    if full.get("partial_rotary_factor", 1.0) != 1.0:
        raise keys.refuse("partial_rotary_factor", full["partial_rotary_factor"], "1.0")
    if family == "gemma3":
        if local.get("rope_type", "default") != "default":
            raise keys.refuse("rope_parameters.sliding_attention.rope_type", local["rope_type"], "default")
        fields["rope_local_theta"] = float(local.get("rope_theta", keys("rope_local_base_freq")))
    return fields


def layer_windows(keys: Keys, window: int | None, slides: list[bool]) -> dict[str, Any]:
    """sliding_window and sliding_pattern that match `slides`, one flag per layer.

    Raises InputError if no pattern does.
    """
    if window is None or not any(slides):
        return {}
    if all(slides):
        return {"sliding_window": window, "sliding_pattern": 0}
    pattern = slides.index(False) + 1
    if slides != [(i + 1) % pattern != 0 for i in range(len(slides))]:
        raise keys.refuse("layer_types", slides, "every n-th layer full and all others sliding, or all layers alike")
    return {"sliding_window": window, "sliding_pattern": pattern}


def _hf_sliding(keys: Keys, family: str, layers: int) -> dict[str, Any]:
    if family == "gemma3":
        pattern = keys("sliding_window_pattern", keys("_sliding_window_pattern", 6))
        slides = [bool((i + 1) % pattern) for i in range(layers)]
    elif family in ("qwen2", "qwen3") and keys("use_sliding_window", False):
        first = keys("max_window_layers", 28)
        slides = [i >= first for i in range(layers)]
    else:
        return {}
    if types := keys("layer_types", None):
        if unknown := set(types) - {"full_attention", "sliding_attention"}:
            raise keys.refuse("layer_types", sorted(unknown), "full_attention, sliding_attention")
        slides = [t == "sliding_attention" for t in types]
    return layer_windows(keys, keys("sliding_window", None), slides)


def from_hf(config: Mapping[str, Any], where: str) -> ModelConfig:
    """ModelConfig of an HF config.json.

    Args:
        config: the parsed file.
        where: the file, for messages.

    Raises:
        InputError: the model_type is unknown, a key is missing, or has a value that is wrong or that ModelConfig cannot
            express.
    """
    family = _MODEL_TYPES.get(str(config.get("model_type")))
    if family is None:
        raise InputError(f"{where}: model_type = {config.get('model_type')!r}; allowed: {', '.join(_MODEL_TYPES)}")
    if "text_config" in config:  # multimodal Gemma 3: use its decoder
        check_value(config["text_config"], "text_config", where)
        config = {"tie_word_embeddings": config.get("tie_word_embeddings"), **config["text_config"]}
    given = {k: v for k, v in config.items() if v is not None}
    if "quantization_config" in given:
        float8.check_method(given["quantization_config"], where)
    keys = Keys({**_DEFAULTS[family], **given}, where)
    for key, needed in {**_MUST_BE[family]}.items():
        if given.get(key, needed) != needed:
            raise keys.refuse(key, given[key], repr(needed))
    with explained(where):
        fields = _HF_FIELDS[family](keys)
        return ModelConfig(family=family, tied_embeddings=keys("tie_word_embeddings"), **fields)


def _activation(keys: Keys, key: str) -> str:
    name = keys(key)
    if name not in _ACTIVATIONS:
        raise keys.refuse(key, name, ", ".join(_ACTIVATIONS))
    return _ACTIVATIONS[name]


def _hf_rms_family(family: str) -> Callable[[Keys], dict[str, Any]]:
    def read(keys: Keys) -> dict[str, Any]:
        heads, hidden, layers = keys("num_attention_heads"), keys("hidden_size"), keys("num_hidden_layers")
        bias = bool(keys("attention_bias", False))
        fields = {
            "vocab_size": keys("vocab_size"), "hidden_size": hidden, "intermediate_size": keys("intermediate_size"),
            "num_layers": layers, "num_heads": heads, "num_kv_heads": keys("num_key_value_heads", heads),
            "head_dim": keys("head_dim", hidden // heads), "max_positions": keys("max_position_embeddings"),
            "norm_eps": keys("rms_norm_eps"), "qkv_bias": bias or family == "qwen2",
            "output_bias": bias and family != "qwen2",
            "mlp_bias": bool(keys("mlp_bias", False)) and family == "llama",
            "qk_norm": family in ("qwen3", "gemma3"),
            **_hf_rope(keys, family), **_hf_sliding(keys, family, layers),
        }
        if family == "gemma3":
            return fields | gemma_fields(hidden) | {
                "activation": _activation(keys, "hidden_activation"),
                "query_scale": keys("query_pre_attn_scalar") ** -0.5,
                "logit_softcap": float(keys("final_logit_softcapping", 0.0)),
            }
        keys.values = {"hidden_act": "silu", **keys.values}
        return fields | {"activation": _activation(keys, "hidden_act")}

    return read


def gemma_fields(hidden: int) -> dict[str, Any]:
    """Fields that every Gemma 3 model shares; `hidden` is its hidden size."""
    return {"norm_offset": 1.0, "post_norms": True, "embedding_scale": math.sqrt(hidden)}


def learned_fields(vocab: int, hidden: int, inner: int, layers: int, heads: int, positions: int) -> dict[str, Any]:
    """Fields that GPT-2 and OPT share: layer norm, learned positions, plain attention and MLP.

    Args:
        vocab: vocabulary size.
        hidden: hidden size.
        inner: hidden size of the MLP.
        layers: number of layers.
        heads: number of attention heads.
        positions: number of learned positions.
    """
    return {
        "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_layers": layers,
        "num_heads": heads, "num_kv_heads": heads, "head_dim": hidden // heads, "max_positions": positions,
        "norm": "layer", "gated_mlp": False, "position": "learned",
        "qkv_bias": True, "output_bias": True, "mlp_bias": True,
    }


def _hf_gpt2(keys: Keys) -> dict[str, Any]:
    hidden = keys("n_embd")
    shape = learned_fields(
        keys("vocab_size"), hidden, keys("n_inner", 4 * hidden), keys("n_layer"), keys("n_head"), keys("n_positions")
    )
    return shape | {"activation": _activation(keys, "activation_function"), "norm_eps": keys("layer_norm_epsilon")}


def _hf_opt(keys: Keys) -> dict[str, Any]:
    hidden, bias = keys("hidden_size"), bool(keys("enable_bias"))
    if keys("word_embed_proj_dim", hidden) != hidden:
        raise keys.refuse("word_embed_proj_dim", keys("word_embed_proj_dim"), f"hidden_size = {hidden}")
    shape = learned_fields(
        keys("vocab_size"), hidden, keys("ffn_dim"), keys("num_hidden_layers"), keys("num_attention_heads"),
        keys("max_position_embeddings"),
    )
    biases = {"qkv_bias": bias, "output_bias": bias, "mlp_bias": bias}
    return shape | biases | {"activation": _activation(keys, "activation_function"), "position_offset": 2}


_HF_FIELDS = {f: _hf_rms_family(f) for f in ("llama", "qwen2", "qwen3", "gemma3")} | {"gpt2": _hf_gpt2, "opt": _hf_opt}


def _rms_to_hf(c: ModelConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default"}
    if c.rope_scaling is not None:
        s = c.rope_scaling
        rope = {"rope_type": s.kind, "factor": s.factor}
        if s.kind == "llama3":
            rope |= {
                "low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor,
                "original_max_position_embeddings": s.original_max_positions,
            }
    out = {
        "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size, "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_dim,
        "max_position_embeddings": c.max_positions, "rms_norm_eps": c.norm_eps, "hidden_act": "silu",
        "rope_theta": c.rope_theta, "rope_scaling": None if c.rope_scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": c.rope_theta},
    }
    types = ["sliding_attention" if c.is_sliding(i) else "full_attention" for i in range(c.num_layers)]
    if c.family == "gemma3":
        del out["hidden_act"]
        local = c.rope_local_theta if c.rope_local_theta is not None else c.rope_theta
        out |= {
            "hidden_activation": "gelu_pytorch_tanh", "sliding_window": c.sliding_window or c.max_positions,
            "layer_types": types, "rope_local_base_freq": local,
            "query_pre_attn_scalar": round((c.head_dim**-0.5 if c.query_scale is None else c.query_scale) ** -2),
            "final_logit_softcapping": c.logit_softcap or None, "attention_bias": c.output_bias,
            "rope_parameters": {
                "full_attention": {**rope, "rope_theta": c.rope_theta},
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            },
        }
    elif c.family in ("qwen2", "qwen3"):
        slides = c.sliding_window is not None
        out |= {"use_sliding_window": slides, "sliding_window": c.sliding_window, "layer_types": types}
        out |= {"max_window_layers": 0 if slides else c.num_layers}
    if c.family in ("llama", "qwen3"):
        out["attention_bias"] = c.output_bias
    if c.family == "llama":
        out["mlp_bias"] = c.mlp_bias
    return out


def _learned_to_hf(c: ModelConfig) -> dict[str, Any]:
    if c.family == "gpt2":
        names = {v: k for k, v in _ACTIVATIONS.items() if k not in ("swish", "gelu_pytorch_tanh")}
        return {
            "n_embd": c.hidden_size, "n_inner": c.intermediate_size, "n_layer": c.num_layers, "n_head": c.num_heads,
            "n_positions": c.max_positions, "n_ctx": c.max_positions, "layer_norm_epsilon": c.norm_eps,
            "activation_function": names[c.activation],
        }
    return {
        "hidden_size": c.hidden_size, "ffn_dim": c.intermediate_size, "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads, "max_position_embeddings": c.max_positions,
        "activation_function": "gelu_new" if c.activation == "gelu_tanh" else c.activation,
        "word_embed_proj_dim": c.hidden_size, "do_layer_norm_before": True, "enable_bias": c.qkv_bias,
    }


_ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM", "gpt2": "GPT2LMHeadModel", "opt": "OPTForCausalLM",
}


def to_hf(c: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig, with both the older rope keys and `rope_parameters`.

    Raises:
        InputError: the family's config has no key for a field of `c`.
    """
    out = {
        "architectures": [_ARCHITECTURES[c.family]], "model_type": "gemma3_text" if c.family == "gemma3" else c.family,
        "vocab_size": c.vocab_size, "tie_word_embeddings": c.tied_embeddings, "dtype": "float32",
        **(_learned_to_hf(c) if c.position == "learned" else _rms_to_hf(c)),
    }
    exported, original = _comparable(from_hf(out, "the exported config.json")), _comparable(c)
    if lost := [k for k in original if original[k] != exported[k]]:
        settings = ", ".join(f"{k} = {original[k]!r}" for k in lost)
        raise InputError(f"a Hugging Face {c.family} config cannot express {settings}")
    return out


def _comparable(c: ModelConfig) -> dict[str, Any]:
    """The fields in a form that compares equal for equal models: sliding layers listed, the query scale rounded."""
    fields = dataclasses.asdict(c)
    slides = [c.is_sliding(i) for i in range(c.num_layers)]
    fields["sliding_pattern"] = slides
    fields["sliding_window"] = c.sliding_window if any(slides) else None
    fields["rope_local_theta"] = c.rope_local_theta if any(slides) and c.rope_local_theta != c.rope_theta else None
    fields["query_scale"] = round(c.head_dim**-0.5 if c.query_scale is None else c.query_scale, 9)
    return fields
