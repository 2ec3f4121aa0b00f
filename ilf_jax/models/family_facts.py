"""What is particular to each model family, as data: for `family_configs` and `family_configs_gguf` to read."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """A number of a checkpoint's config that is a field of ModelConfig.

    Attributes:
        key: in the checkpoint's config.
        field: of ModelConfig.
        load, save: from the one to the other and back.
        default: value of a key that is missing or null.
    """

    key: str
    field: str
    load: Callable[[float], float] = float
    save: Callable[[float], float | None] = float
    default: float = 1.0


def _inverse(value: float) -> float:
    return float(f"{1 / value:.12g}")  # 1 / (1 / 49) is not 49


def _cap(value: float) -> float | None:
    return value or None


FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "granite", "smollm3", "gpt2", "opt",
)
LEARNED = ("gpt2", "opt")
"""Families with layer norm and learned positions; the others have RMSNorm and rotary positions."""
MODEL_TYPES = {**{family: family for family in FAMILIES}, "gemma3_text": "gemma3"}
"""What config.json calls the families."""
ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM", "olmo2": "Olmo2ForCausalLM", "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM", "gpt2": "GPT2LMHeadModel", "opt": "OPTForCausalLM",
}
"""transformers' classes."""

_NO_BIAS = {"qkv_bias": False, "output_bias": False, "mlp_bias": False}
FIXED: dict[str, dict[str, Any]] = {
    **{family: {} for family in FAMILIES},
    "mistral": _NO_BIAS,
    "qwen2": _NO_BIAS | {"qkv_bias": True},
    "qwen3": {"mlp_bias": False, "qk_norm": True},
    "gemma2": {"mlp_bias": False, "norm_offset": 1.0, "post_norms": True},
    "gemma3": {"mlp_bias": False, "norm_offset": 1.0, "post_norms": True, "qk_norm": True},
    "phi3": _NO_BIAS,
    "olmo2": {"mlp_bias": False, "pre_norms": False, "post_norms": True, "qk_norm_whole": True},
}
"""Fields of ModelConfig that all models of a family share."""
ROOT_SCALED_EMBEDDINGS = ("gemma2", "gemma3")
"""Families that multiply embeddings by the root of the hidden size."""
PARTLY_ROTATED = ("phi3",)
"""Families whose heads may be rotated in part."""
BIAS_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "granite", "smollm3"), ("attention_bias", "mlp_bias")),
    **dict.fromkeys(("qwen3", "gemma2", "gemma3", "olmo2"), ("attention_bias",)),
}
"""Keys of config.json that say whether there are biases."""

_GEMMA_SETTINGS = (
    Setting("query_pre_attn_scalar", "query_scale", lambda v: v**-0.5, lambda v: round(v**-2), 256.0),
    Setting("final_logit_softcapping", "logit_softcap", save=_cap, default=0.0),
)
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "gemma2": (*_GEMMA_SETTINGS, Setting("attn_logit_softcapping", "attention_softcap", save=_cap, default=0.0)),
    "gemma3": _GEMMA_SETTINGS,
    "granite": (
        Setting("embedding_multiplier", "embedding_scale"), Setting("attention_multiplier", "query_scale"),
        Setting("residual_multiplier", "residual_scale"), Setting("logits_scaling", "logit_scale", _inverse, _inverse),
    ),
}
"""Numbers in config.json."""
GGUF_SETTINGS: dict[str, tuple[Setting, ...]] = {
    "gemma2": (
        # What llama.cpp takes where a file does not say.
        Setting("attn_logit_softcapping", "attention_softcap", default=50.0),
        Setting("final_logit_softcapping", "logit_softcap", default=30.0),
    ),
    "gemma3": (Setting("final_logit_softcapping", "logit_softcap", default=0.0),),
    "granite": (
        Setting("embedding_scale", "embedding_scale"), Setting("residual_scale", "residual_scale"),
        Setting("logit_scale", "logit_scale", _inverse, _inverse),
    ),
}
"""Numbers in the metadata of a GGUF file."""

# Defaults of transformers for keys that a config.json leaves out.
_RMS_DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu", "rope_theta": 10_000.0}
_GEMMA_DEFAULTS = {
    **{k: v for k, v in _RMS_DEFAULTS.items() if k != "hidden_act"}, "tie_word_embeddings": True, "head_dim": 256,
    "num_attention_heads": 8, "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "hidden_activation": "gelu_pytorch_tanh",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _RMS_DEFAULTS | {"max_position_embeddings": 2048},
    "mistral": _RMS_DEFAULTS | {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": _RMS_DEFAULTS | {"max_position_embeddings": 32768},
    "qwen3": _RMS_DEFAULTS | {"max_position_embeddings": 32768, "head_dim": 128},
    "gemma2": _GEMMA_DEFAULTS | {
        "max_position_embeddings": 8192, "vocab_size": 256000, "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0, "sliding_window_pattern": 2,
    },
    "gemma3": _GEMMA_DEFAULTS | {
        "max_position_embeddings": 131072, "vocab_size": 262208, "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6,
    },
    "phi3": _RMS_DEFAULTS | {
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    },
    "olmo2": _RMS_DEFAULTS | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    "granite": _RMS_DEFAULTS | {"max_position_embeddings": 2048},
    "smollm3": _RMS_DEFAULTS | {
        "max_position_embeddings": 32768, "tie_word_embeddings": True, "num_key_value_heads": 4,
        "rope_theta": 2_000_000.0, "no_rope_layer_interval": 4,
    },
    "gpt2": {"tie_word_embeddings": True, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    "opt": {"tie_word_embeddings": True, "activation_function": "relu", "enable_bias": True},
}
NULL_MEANS_OFF = ("sliding_window", "final_logit_softcapping", "attn_logit_softcapping")
"""Keys whose null is a value of its own, not the default."""

MUST_BE: dict[str, dict[str, Any]] = {
    **{family: {} for family in FAMILIES},
    "gemma2": {"use_bidirectional_attention": False},
    "gemma3": {"attn_logit_softcapping": None, "use_bidirectional_attention": False},
    "phi3": {"attention_bias": False},
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    "opt": {"do_layer_norm_before": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False},
}
"""Settings that change the output and that we do not implement: key -> the value that means "off", as no key does."""
