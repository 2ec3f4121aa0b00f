"""HF config.json <-> ModelConfig. A setting that ModelConfig cannot express raises InputError with key and value."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.models import float8, rope_configs
from ilf_jax.models.architecture import ModelConfig
from ilf_jax.models.config_values import Keys, check_value, explained, short
from ilf_jax.models.family_facts import (
    ARCHITECTURES,
    BIAS_KEYS,
    DEFAULTS,
    FIXED,
    LEARNED,
    MODEL_TYPES,
    MUST_BE,
    NULL_MEANS_OFF,
    ROOT_SCALED_EMBEDDINGS,
    SETTINGS,
)

_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}


def layer_windows(window: int | None, slides: list[bool]) -> dict[str, Any]:
    """The fields of ModelConfig for a window in the layers that `slides` flags."""
    if window is None or not any(slides):
        return {}
    if all(slides):
        return {"sliding_window": window, "sliding_pattern": 0}
    pattern = slides.index(False) + 1
    if slides != [(i + 1) % pattern != 0 for i in range(len(slides))]:
        return {"sliding_window": window, "sliding_layers": tuple(i for i, s in enumerate(slides) if s)}
    return {"sliding_window": window, "sliding_pattern": pattern}


def _hf_sliding(keys: Keys, family: str, layers: int, unrotated: tuple[int, ...]) -> dict[str, Any]:
    types = keys("layer_types", [])
    if unknown := set(types) - {"full_attention", "sliding_attention"}:
        raise keys.refuse("layer_types", sorted(unknown), "full_attention, sliding_attention")
    slides = [t == "sliding_attention" for t in types]
    if family in ("gemma2", "gemma3"):
        pattern = keys("_sliding_window_pattern", keys("sliding_window_pattern"))
        slides = slides or [bool((i + 1) % pattern) for i in range(layers)]
    elif family in ("mistral", "phi3"):
        if not all(slides):
            raise keys.refuse("layer_types", types, "sliding_attention in all layers, as in transformers")
        slides = [True] * layers
    elif family in ("qwen2", "qwen3") and keys("use_sliding_window", False):
        first = keys("max_window_layers", 28)
        slides = slides or [i >= first for i in range(layers)]
    elif family == "smollm3" and keys("use_sliding_window", False):
        slides = slides or [i in unrotated for i in range(layers)]
    else:
        return {}
    if len(slides) != layers:
        raise keys.refuse("layer_types", types, f"one for each of the {layers} layers")
    window = keys("sliding_window", None)
    if family != "gemma3" and window is not None and window >= keys("max_position_embeddings"):
        return {}  # no key is that far back
    return layer_windows(window, slides)


def from_hf(config: Mapping[str, Any], where: str) -> ModelConfig:
    """ModelConfig of an HF config.json.

    Args:
        config: the parsed file.
        where: the file, for messages.

    Raises:
        InputError: the model_type is unknown, a key is missing, or has a value that is wrong or that ModelConfig cannot
            express.
    """
    family = MODEL_TYPES.get(str(config.get("model_type")))
    if family is None:
        raise InputError(f"{where}: model_type = {short(config.get('model_type'))}; allowed: {', '.join(MODEL_TYPES)}")
    if "text_config" in config:  # multimodal Gemma 3: use its decoder
        check_value(config["text_config"], "text_config", where)
        outer = {key: config.get(key) for key in ("tie_word_embeddings", float8.KEY)}
        config = {**outer, **config["text_config"]}
    given = {k: v for k, v in config.items() if v is not None or k in NULL_MEANS_OFF}
    if float8.KEY in given:
        float8.check_method(given[float8.KEY], where)
    keys = Keys({**DEFAULTS[family], **given}, where)
    for key, needed in MUST_BE[family].items():
        if given.get(key, needed) != needed:
            raise keys.refuse(key, given[key], repr(needed))
    with explained(where):
        fields = _LEARNED_FIELDS[family](keys) if family in LEARNED else _hf_rms(keys, family)
        return ModelConfig(family=family, tied_embeddings=keys("tie_word_embeddings"), **fields)


def _activation(keys: Keys, key: str) -> str:
    name = keys(key)
    if name not in _ACTIVATIONS:
        raise keys.refuse(key, name, ", ".join(_ACTIVATIONS))
    return _ACTIVATIONS[name]


def _hf_rms(keys: Keys, family: str) -> dict[str, Any]:
    heads, hidden, layers = keys("num_attention_heads"), keys("hidden_size"), keys("num_hidden_layers")
    head_dim, has_bias = keys("head_dim", hidden // heads), bool(keys("attention_bias", False))
    fields = {
        "vocab_size": keys("vocab_size"), "hidden_size": hidden, "intermediate_size": keys("intermediate_size"),
        "num_layers": layers, "num_heads": heads, "num_kv_heads": keys("num_key_value_heads", heads),
        "head_dim": head_dim, "norm_eps": keys("rms_norm_eps"), "qkv_bias": has_bias, "output_bias": has_bias,
        "mlp_bias": bool(keys("mlp_bias", False)), **FIXED[family],
        "activation": _activation(keys, next(k for k in ("hidden_activation", "hidden_act") if k in DEFAULTS[family])),
        **{s.field: s.load(keys(s.key, s.default)) for s in SETTINGS.get(family, ())},
        **rope_configs.from_hf(keys, family, head_dim), **_unrotated(keys, family, layers),
    }
    if family in ROOT_SCALED_EMBEDDINGS:
        fields["embedding_scale"] = math.sqrt(hidden)
    return fields | _hf_sliding(keys, family, layers, fields.get("unrotated_layers", ()))


def _unrotated(keys: Keys, family: str, layers: int) -> dict[str, Any]:
    if family != "smollm3":
        return {}
    interval = keys("no_rope_layer_interval")
    rotated = keys("no_rope_layers", [(i + 1) % interval for i in range(layers)])  # 1 where the layer does have rope
    if len(rotated) < layers:
        raise keys.refuse("no_rope_layers", rotated, f"a flag for each of the {layers} layers")
    return {"unrotated_layers": tuple(i for i in range(layers) if not rotated[i])}


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


_LEARNED_FIELDS = {"gpt2": _hf_gpt2, "opt": _hf_opt}

def _rms_to_hf(c: ModelConfig) -> dict[str, Any]:
    out = {
        "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size, "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_dim,
        "rms_norm_eps": c.norm_eps, **rope_configs.to_hf(c),
        **{s.key: s.save(_query_scale(c) if s.field == "query_scale" else getattr(c, s.field))
           for s in SETTINGS.get(c.family, ())},
        **{key: c.mlp_bias if key == "mlp_bias" else c.output_bias for key in BIAS_KEYS.get(c.family, ())},
    }
    activation = "gelu_pytorch_tanh" if c.activation == "gelu_tanh" else c.activation
    slides = [c.is_sliding(i) for i in range(c.num_layers)]
    types = ["sliding_attention" if s else "full_attention" for s in slides]
    if c.family in ("gemma2", "gemma3"):
        out |= {"hidden_activation": activation, "layer_types": types}
        out["sliding_window"] = c.sliding_window or c.max_positions
    else:
        out["hidden_act"] = activation
    if c.family in ("mistral", "phi3"):
        out["sliding_window"] = c.sliding_window if all(slides) else None
    if c.family in ("qwen2", "qwen3", "smollm3"):
        out |= {"use_sliding_window": any(slides), "sliding_window": c.sliding_window, "layer_types": types}
    if c.family in ("qwen2", "qwen3"):
        out["max_window_layers"] = slides.index(True) if any(slides) else c.num_layers
    if c.family == "smollm3":
        out["no_rope_layers"] = [int(c.is_rotated(i)) for i in range(c.num_layers)]
    return out


def _query_scale(c: ModelConfig) -> float:
    return c.head_dim**-0.5 if c.query_scale is None else c.query_scale


def _learned_to_hf(c: ModelConfig) -> dict[str, Any]:
    activation = "gelu_new" if c.activation == "gelu_tanh" else c.activation
    if c.family == "gpt2":
        return {
            "n_embd": c.hidden_size, "n_inner": c.intermediate_size, "n_layer": c.num_layers, "n_head": c.num_heads,
            "n_positions": c.max_positions, "n_ctx": c.max_positions, "layer_norm_epsilon": c.norm_eps,
            "activation_function": activation,
        }
    return {
        "hidden_size": c.hidden_size, "ffn_dim": c.intermediate_size, "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads, "max_position_embeddings": c.max_positions,
        "activation_function": activation,
        "word_embed_proj_dim": c.hidden_size, "do_layer_norm_before": True, "enable_bias": c.qkv_bias,
    }


def to_hf(c: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig, with both the older rope keys and `rope_parameters`.

    Raises:
        InputError: the family's config has no key for a field of `c`.
    """
    out = {
        "architectures": [ARCHITECTURES[c.family]], "model_type": "gemma3_text" if c.family == "gemma3" else c.family,
        "vocab_size": c.vocab_size, "tie_word_embeddings": c.tied_embeddings, "dtype": "float32",
        "pad_token_id": None,  # a family's default may lie beyond this vocabulary
        **(_learned_to_hf(c) if c.position == "learned" else _rms_to_hf(c)),
    }
    exported, original = comparable(from_hf(out, "the exported config.json")), comparable(c)
    if lost := [k for k in original if original[k] != exported[k]]:
        settings = ", ".join(f"{k} = {original[k]!r}" for k in lost)
        raise InputError(f"a Hugging Face {c.family} config cannot express {settings}")
    return out


def comparable(c: ModelConfig) -> dict[str, Any]:
    """The fields in a form that compares equal for equal models: sliding layers listed, the query scale rounded."""
    fields = dataclasses.asdict(c)
    slides = [c.is_sliding(i) for i in range(c.num_layers)]
    fields["sliding_pattern"] = slides
    fields["sliding_window"] = c.sliding_window if any(slides) else None
    fields["rope_local_theta"] = c.rope_local_theta if any(slides) and c.rope_local_theta != c.rope_theta else None
    fields["sliding_layers"] = None
    fields["query_scale"] = round(_query_scale(c), 9)
    return fields
