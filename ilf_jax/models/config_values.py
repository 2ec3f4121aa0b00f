"""Values that other people's configs hold: what kind each key has, and errors that name the file and the key.

A config.json or the metadata of a GGUF file may hold anything. Every value is checked as it is read, before it is
computed with; what a whole model may look like, `architecture.ModelConfig` checks.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.models.architecture import MAX_LAYERS, MAX_SIZE

_MISSING = object()


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a key may hold: `words` for messages, its types, and the inclusive range of a number."""

    words: str
    types: tuple[type, ...]
    low: float = -math.inf
    high: float = math.inf

    def admits(self, value: Any) -> bool:
        if not isinstance(value, self.types) or (isinstance(value, bool) and bool not in self.types):
            return False
        return not isinstance(value, (int, float)) or self.low <= value <= self.high


_LARGEST = 1e30  # far above any setting, far below what overflows a float32
_SIZE = _Kind(f"a whole number from 1 to {MAX_SIZE}", (int,), 1, MAX_SIZE)
_LAYERS = _Kind(f"a whole number from 1 to {MAX_LAYERS}", (int,), 1, MAX_LAYERS)
_COUNT = _Kind(f"a whole number from 0 to {MAX_SIZE}", (int,), 0, MAX_SIZE)
_POSITIVE = _Kind("a number above 0", (int, float), 1e-30, _LARGEST)
_NUMBER = _Kind("a number", (int, float), -_LARGEST, _LARGEST)
_SWITCH = _Kind("true or false", (bool,))
_PATTERN = _Kind("a whole number from 1, or one flag a layer", (int, list), 1, MAX_SIZE)
_LIST = _Kind("a list", (list,))
_TEXT = _Kind("a string", (str,))
_OBJECT = _Kind("an object", (dict,))

# The keys of HF's config.json and, without the name of the architecture before them, of GGUF.
_KINDS: dict[str, _Kind] = {
    **dict.fromkeys((
        "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "max_position_embeddings", "n_embd", "n_inner", "n_head", "n_positions", "ffn_dim", "word_embed_proj_dim",
        "original_max_position_embeddings", "sliding_window", "embedding_length", "feed_forward_length",
        "context_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.value_length", "rope.dimension_count", "rope.scaling.original_context_length",
        "no_rope_layer_interval",
    ), _SIZE),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "block_count"), _LAYERS),
    **dict.fromkeys((
        "sliding_window_pattern", "_sliding_window_pattern", "attention.sliding_window_pattern",
    ), _PATTERN),
    **dict.fromkeys(("max_window_layers", "expert_count", "attention.sliding_window"), _COUNT),
    **dict.fromkeys((
        "rms_norm_eps", "layer_norm_epsilon", "query_pre_attn_scalar", "rope_theta", "rope_local_base_freq", "factor",
        "low_freq_factor", "high_freq_factor", "rope.freq_base", "rope.freq_base_swa",
        "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "embedding_multiplier",
        "attention_multiplier", "residual_multiplier", "logits_scaling", "embedding_scale", "residual_scale",
        "logit_scale", "attention_factor", "beta_fast", "beta_slow", "rope.scaling.attn_factor",
        "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    ), _POSITIVE),
    **dict.fromkeys((
        "attn_logit_softcapping", "final_logit_softcapping", "attention.scale", "mscale", "mscale_all_dim", "alpha",
        "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_log_multiplier",
    ), _NUMBER),
    **dict.fromkeys(("layer_types", "no_rope_layers", "short_factor", "long_factor"), _LIST),
    **dict.fromkeys(("rope.scaling.factor", "rope.scale_linear", "partial_rotary_factor"), _NUMBER),
    **dict.fromkeys((
        "tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "enable_bias", "truncate",
    ), _SWITCH),
    **dict.fromkeys((
        "hidden_act", "hidden_activation", "activation_function", "rope_type", "rope.scaling.type",
    ), _TEXT),
    **dict.fromkeys(("rope_parameters", "rope_scaling", "full_attention", "sliding_attention", "text_config"), _OBJECT),
}


class Keys:
    """Reads the keys of a config. Errors name the file and the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def __call__(self, key: str, default: Any = _MISSING) -> Any:
        """The value of a key, or `default` where there is none.

        Raises:
            InputError: the key is missing and has no default, or holds what such a key cannot.
        """
        value = self.values.get(key)
        if value is None and default is _MISSING:
            raise InputError(f"{self.where}: the config has no {key!r}, which this family needs")
        if value is None:
            return default
        check_value(value, key, self.where)
        return value

    def refuse(self, key: str, value: Any, allowed: str) -> InputError:
        """The error for a value that is not supported."""
        return InputError(f"{self.where}: {key} = {short(value)} is not supported; allowed: {allowed}")


def check_value(value: Any, key: str, where: str) -> None:
    """Checks a value, and those inside an object, by its key.

    Raises:
        InputError: the value has the wrong type or is out of range, or a number is not finite.
    """
    kind = _KINDS.get(key)
    if kind is not None and not kind.admits(value):
        raise InputError(f"{where}: {key} = {short(value)}; expected {kind.words}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {key if key in _KINDS else short(key)} = {value!r} is not a finite number")
    if isinstance(value, dict):
        for name, inner in value.items():
            if inner is not None:
                check_value(inner, str(name), where)


def check_name(name: str, what: str, where: str) -> None:
    """Raises InputError unless a name from a file can stand in a message: printable, of 256 characters at most."""
    if len(name) > 256 or not name.isprintable():
        raise InputError(f"{where}: {what} is {short(name)}, of {len(name)} characters; the file is damaged")


def short(value: Any) -> str:
    """A value of a file for a message: as Python writes it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns what wrong values lead to in a computation into an InputError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{where}: does not describe a model: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What an error says, for a message: printable, of 300 characters at most."""
    if isinstance(error, KeyError):
        return f"{short(error.args[0])} is missing"
    text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # it may quote the file
    return text if len(text) <= 300 else f"{text[:297]}..."
