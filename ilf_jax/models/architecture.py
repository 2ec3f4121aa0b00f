"""What defines an architecture. Model families are data: one decoder reads these fields and nothing else."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from ilf_jax.tasks import word_removal

MAX_SIZE = 2**31 - 1
"""No axis of a param, and no position, is larger."""
MAX_LAYERS = 512
"""No model has more layers. Where they are unrolled, each of them costs compile time."""

# What fields may hold beside their types. Those that are not named: whole numbers from 0, finite numbers.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim",
                     "max_positions", "sliding_window", "original_max_positions"), (1, MAX_SIZE)),
    "num_layers": (1, MAX_LAYERS), "norm_eps": (1e-30, 1.0), "rotary_dim": (2, MAX_SIZE),
    **dict.fromkeys(("logit_softcap", "attention_softcap"), (0.0, 1e30)),
    **dict.fromkeys(("rope_theta", "rope_local_theta", "query_scale", "embedding_scale", "logit_scale", "factor",
                     "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow",
                     "short_factors", "long_factors"), (1e-30, 1e30)),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "norm": ("rms", "layer"), "activation": ("silu", "gelu_tanh", "gelu", "relu"), "position": ("rope", "learned"),
    "kind": ("linear", "llama3", "yarn", "longrope", "dynamic"),
}


def _check_fields(instance: Any) -> None:
    """Raises ValueError for the first field of a dataclass with a value of another type, out of range, or no choice."""
    for name, hint in typing.get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError(f"{name} = {value} is not a number")
        if not isinstance(value, (*kinds, int) if float in kinds else kinds):
            allowed = " or ".join("unset" if kind is types.NoneType else kind.__name__ for kind in kinds)
            raise ValueError(f"{name} = {value!r} is of type {type(value).__name__}, not {allowed}")
        if isinstance(value, str) and value not in _CHOICES.get(name, (value,)):
            raise ValueError(f"{name} = {value!r} is not one of {', '.join(_CHOICES[name])}")
        numbers = value if isinstance(value, tuple) else (value,) if type(value) in (int, float) else ()
        for number in numbers:
            low, high = _RANGES.get(name, (-1e30, 1e30) if float in kinds else (0, MAX_SIZE))
            if type(number) not in (int, float) or not low <= number <= high:  # false for NaN, too
                raise ValueError(f"{name} = {number!r} is out of range; allowed: {low:g} to {high:g}")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary frequency scaling, which stretches the positions that a model was first trained on.

    `linear` divides all frequencies, `llama3` only the low ones (Llama 3.1, section 3), `yarn` too (Peng et al. 2023,
    section 3.2), `longrope` each by its own divisor (Ding et al. 2024). `longrope` and `dynamic` use other frequencies
    for texts beyond the original length, where keys that a cache holds would be wrong. So a model of these kinds has
    the original length for its context, and `long_factors` and what lies beyond are only kept for export.

    Attributes:
        attention_factor: multiplies cosines and sines.
        beta_fast, beta_slow: `yarn` keeps frequencies of more than beta_fast turns in the original length, divides
            those of fewer than beta_slow, and blends between.
        truncate: whether `yarn` rounds the ends of what is blended outwards, to whole frequencies.
        short_factors, long_factors: divisors of `longrope`, one a frequency, up to the original length and beyond.
    """

    kind: str  # "linear", "llama3", "yarn", "longrope" or "dynamic"
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError if it is no such scaling."""
        _check_fields(self)
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(f"low_freq_factor {self.low_freq_factor} is not below high_freq_factor "
                             f"{self.high_freq_factor}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and switches of a decoder-only transformer.

    Attributes:
        family: name of the checkpoint table, one of `family_facts.FAMILIES`.
        num_kv_heads: query heads share these in groups (GQA); equal to num_heads for plain attention.
        norm: "rms" or "layer".
        norm_offset: added to the RMS scale before use (Gemma stores scale - 1).
        activation: "silu", "gelu_tanh", "gelu" or "relu".
        gated_mlp: down(act(gate(x)) * up(x)) instead of down(act(up(x))).
        position: "rope" or "learned".
        position_offset: first row of the learned table in use (OPT: 2).
        rope_local_theta: base of sliding-window layers; None means rope_theta.
        rotary_dim: how many of a head's dimensions are rotated; None means all (Phi-4-mini: three quarters).
        unrotated_layers: layers without rotary positions (SmolLM3).
        qk_norm: queries and keys are normed, each head by itself.
        qk_norm_whole: they are normed all heads together (OLMo 2).
        pre_norms: the inputs of attention and MLP are normed.
        post_norms: their outputs are normed, before the residual sum (Gemma, OLMo 2).
        residual_scale: multiplies those outputs (Granite).
        sliding_window: sliding layers do not attend to keys further back than this.
        sliding_pattern: layer i is full where (i + 1) % sliding_pattern == 0; 0 means all layers slide.
        sliding_layers: the layers that slide, where no pattern says which; None: the pattern does.
        attention_softcap: scores become cap * tanh(scores / cap); 0 means off (Gemma 2).
        query_scale: multiplies q k^T; None means head_dim ** -0.5.
        embedding_scale: multiplies embeddings (Gemma: sqrt(hidden_size)).
        logit_softcap: logits become cap * tanh(logits / cap); 0 means off.
        logit_scale: multiplies logits.
        scalar_head: has a vector whose product with a hidden state is a reward.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm: str = "rms"
    norm_eps: float = 1e-5
    norm_offset: float = 0.0
    activation: str = "silu"
    gated_mlp: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    residual_scale: float = 1.0
    position: str = "rope"
    position_offset: int = 0
    rope_theta: float = 10_000.0
    rope_local_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None
    unrotated_layers: tuple[int, ...] = ()
    sliding_window: int | None = None
    sliding_pattern: int = 0
    sliding_layers: tuple[int, ...] | None = None
    attention_softcap: float = 0.0
    query_scale: float | None = None
    embedding_scale: float = 1.0
    tied_embeddings: bool = True
    logit_softcap: float = 0.0
    logit_scale: float = 1.0
    scalar_head: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError if no model looks like this: a wrong type, a value out of range, sizes that do not fit."""
        _check_fields(self)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.position == "rope" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_dim}")
        if self.rotary_dim is not None and not (0 < self.rotary_dim <= self.head_dim and self.rotary_dim % 2 == 0):
            raise ValueError(f"rotary_dim {self.rotary_dim} is not an even number from 2 to head_dim {self.head_dim}")
        if self.rope_scaling is not None and self.rope_scaling.kind == "longrope":
            needed, given = self.rotated // 2, len(self.rope_scaling.short_factors)
            if given != needed:
                raise ValueError(f"longrope needs {needed} short factors, one a frequency, not {given}")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn" and self.rope_theta <= 1.0:
            raise ValueError(f"yarn needs rope_theta above 1, not {self.rope_theta}")
        if not (self.pre_norms or self.post_norms):
            raise ValueError("neither inputs nor outputs of a layer are normed")
        if self.position == "learned" and self.num_heads * self.head_dim != self.hidden_size:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")

    def is_sliding(self, layer: int) -> bool:
        """Whether `layer` sees only the last `sliding_window` keys."""
        if self.sliding_window is None:
            return False
        if self.sliding_layers is not None:
            return layer in self.sliding_layers
        return self.sliding_pattern == 0 or (layer + 1) % self.sliding_pattern != 0


    def is_rotated(self, layer: int) -> bool:
        """Whether `layer` has rotary positions."""
        return self.position == "rope" and layer not in self.unrotated_layers

    @property
    def rotated(self) -> int:
        """How many of a head's dimensions are rotated."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim


def to_facts(config: ModelConfig) -> dict[str, Any]:
    """The architecture as a dict of what JSON can hold."""
    return dataclasses.asdict(config)


def from_facts(facts: dict[str, Any]) -> ModelConfig:
    """Inverse of `to_facts`. Raises TypeError or ValueError if they do not describe an architecture."""
    scaling = facts.get("rope_scaling")
    if scaling is not None and not isinstance(scaling, Mapping):
        raise ValueError(f"rope_scaling = {scaling!r} is not an object")
    scaling = None if scaling is None else RopeScaling(**_hashable(scaling))
    return ModelConfig(**_hashable({**facts, "rope_scaling": scaling}))


def _hashable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}


def small_shape(width: int, layers: int, vocab_size: int = 1024) -> ModelConfig:
    """Our own small Llama-shaped models, heads of 32."""
    heads = max(1, width // 32)
    return ModelConfig(
        family="llama", vocab_size=vocab_size, hidden_size=width, intermediate_size=width * 3, num_layers=layers,
        num_heads=heads, num_kv_heads=heads, head_dim=width // heads, max_positions=512, rope_theta=10_000.0,
    )


def _llama(width: int, inner: int, layers: int, heads: int) -> ModelConfig:
    """Llama 3.1 (Dubey et al. 2024, table 3)."""
    return ModelConfig(
        family="llama", vocab_size=128_256, hidden_size=width, intermediate_size=inner, num_layers=layers,
        num_heads=heads, num_kv_heads=8, head_dim=width // heads, max_positions=131_072, rope_theta=500_000.0,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192), tied_embeddings=False,
    )


SHAPES: dict[str, ModelConfig] = {
    "tiny": small_shape(width=32, layers=2, vocab_size=512),
    **{name: small_shape(width, layers) for name, (width, layers) in word_removal.MODEL_SIZES.items()},
    # TinyLlama (Zhang et al. 2024, table 1).
    "llama_1b": ModelConfig(
        family="llama", vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_layers=22, num_heads=32,
        num_kv_heads=4, head_dim=64, max_positions=2048, rope_theta=10_000.0, tied_embeddings=False,
    ),
    "llama_8b": _llama(4096, 14_336, 32, 32),
    "llama_70b": _llama(8192, 28_672, 80, 64),
    # Brown et al. 2020, table 2.1: the size of the paper's policy.
    "gpt3_175b": ModelConfig(
        family="gpt2", vocab_size=50_257, hidden_size=12_288, intermediate_size=49_152, num_layers=96, num_heads=96,
        num_kv_heads=96, head_dim=128, max_positions=2048, norm="layer", activation="gelu_tanh", gated_mlp=False,
        qkv_bias=True, output_bias=True, mlp_bias=True, position="learned",
    ),
}
"""Shapes that `init:NAME` knows."""
