"""The checkpoint format of each family: its tensor names, and how a tensor becomes a param.

Loading applies the rules forwards, export (`checkpoint_io.save_hf`) backwards. `family_configs` and
`family_configs_gguf` convert the configs.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

import numpy as np

from ilf_jax.models.architecture import ModelConfig

Arrays = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
    """Converts a file's tensor to params (`load`) and back (`save`)."""

    load: Callable[[np.ndarray, ModelConfig], Arrays]
    save: Callable[[Arrays, ModelConfig], np.ndarray]


def _interleave(a: np.ndarray, heads: int) -> np.ndarray:
    """Reorders the rows of each head from HF's rotary halves (x0 x1 .. y0 y1 ..) to GGUF's pairs (x0 y0 x1 y1 ..)."""
    return a.reshape(heads, 2, -1, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)


def _deinterleave(a: np.ndarray, heads: int) -> np.ndarray:
    return a.reshape(heads, -1, 2, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape)


def _split_qkv(a: np.ndarray, c: ModelConfig) -> Arrays:
    ends = np.cumsum([c.num_heads, c.num_kv_heads]) * c.head_dim
    return [part.T for part in np.split(a, ends)]


# A bias or a norm scale has one axis, which `.T` leaves unchanged, so weight and bias share a transform.
COPY = Transform(lambda a, c: [a], lambda t, c: t[0])
TRANSPOSE = Transform(lambda a, c: [a.T], lambda t, c: t[0].T)
SPLIT = Transform(lambda a, c: np.split(a, 3, axis=-1), lambda t, c: np.concatenate(t, axis=-1))
TRANSPOSE_SPLIT = Transform(lambda a, c: np.split(a.T, 3, axis=-1), lambda t, c: np.concatenate(t, axis=-1).T)
ROPE_Q = Transform(lambda a, c: [_deinterleave(a, c.num_heads).T], lambda t, c: _interleave(t[0].T, c.num_heads))
ROPE_K = Transform(lambda a, c: [_deinterleave(a, c.num_kv_heads).T], lambda t, c: _interleave(t[0].T, c.num_kv_heads))
FUSED_QKV = Transform(lambda a, c: _split_qkv(a, c), lambda t, c: np.concatenate([x.T for x in t]))
FUSED_GATE_UP = Transform(lambda a, c: [x.T for x in np.split(a, 2)], lambda t, c: np.concatenate([x.T for x in t]))
MINUS_ONE = Transform(lambda a, c: [a - 1.0], lambda t, c: t[0] + 1.0)


@dataclasses.dataclass(frozen=True)
class Rule:
    """The tensor `source` (without the family's prefix) holds the params `targets`; {i} is the layer number."""

    source: str
    targets: tuple[str, ...]
    transform: Transform = COPY


@dataclasses.dataclass(frozen=True)
class Table:
    """The tensors of a family in one format.

    Attributes:
        rules: a rule applies only if the model has all its targets.
        prefixes: prefixes that a source may have; export writes the first.
        unprefixed: sources that export writes without a prefix.
        ignored: patterns of the full names of tensors that are not decoder weights.
    """

    rules: tuple[Rule, ...]
    prefixes: tuple[str, ...] = ("",)
    unprefixed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def canonical(self, name: str) -> str:
        """`name` without the longest matching prefix."""
        return name[max((len(p) for p in self.prefixes if name.startswith(p)), default=0) :]

    def export_name(self, source: str) -> str:
        """The name that export writes."""
        return source if source in self.unprefixed else self.prefixes[0] + source

    def is_ignored(self, name: str) -> bool:
        """Whether the tensor is known not to be a decoder weight."""
        return any(re.search(pattern, name) for pattern in self.ignored)

    def expand(self, config: ModelConfig, params: Collection[str]) -> list[Rule]:
        """One rule for each tensor that a file of this config must have; `params` are the model's param paths."""
        rules = []
        for rule in self.rules:
            for i in range(config.num_layers) if "{i}" in rule.source else (0,):
                targets = tuple(t.replace("{i}", str(i)) for t in rule.targets)
                if all(t in params for t in targets):
                    rules.append(Rule(rule.source.replace("{i}", str(i)), targets, rule.transform))
        return rules


def _linear(source: str, target: str, transform: Transform = TRANSPOSE) -> tuple[Rule, Rule]:
    target = "layers_{i}/" + target
    return (
        Rule(source + ".weight", (target + "/kernel",), transform),
        Rule(source + ".bias", (target + "/bias",), transform),
    )


def _norm(source: str, target: str, transform: Transform = COPY) -> tuple[Rule, Rule]:
    return Rule(source + ".weight", (target + "/scale",), transform), Rule(source + ".bias", (target + "/bias",))


def _qkv(source: str, transform: Transform) -> tuple[Rule, Rule]:
    paths = ["layers_{i}/attention/" + p for p in "qkv"]
    return (
        Rule(source + ".weight", tuple(p + "/kernel" for p in paths), transform),
        Rule(source + ".bias", tuple(p + "/bias" for p in paths), transform),
    )


def _gate_up(source: str) -> tuple[Rule, ...]:
    return (Rule(source + ".weight", ("layers_{i}/mlp/gate/kernel", "layers_{i}/mlp/up/kernel"), FUSED_GATE_UP),)


def _hf_decoder(norms: Mapping[str, str]) -> tuple[Rule, ...]:
    layer = "layers.{i}."
    linears = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
    return (
        Rule("embed_tokens.weight", ("embedding",)),
        Rule("lm_head.weight", ("unembedding",)),
        *_norm("norm", "final_norm"),
        *(r for s, t in linears.items() for r in _linear(f"{layer}self_attn.{s}", f"attention/{t}")),
        *(r for t in ("q_norm", "k_norm") for r in _norm(f"{layer}self_attn.{t}", f"layers_{{i}}/attention/{t}")),
        *(r for t in ("gate", "up", "down") for r in _linear(f"{layer}mlp.{t}_proj", f"mlp/{t}")),
        *(r for s, t in norms.items() for r in _norm(layer + s, f"layers_{{i}}/{t}")),
    )


def _gguf_decoder(q: Transform, k: Transform, norm: Transform, norms: Mapping[str, str]) -> tuple[Rule, ...]:
    layer = "blk.{i}."
    return (
        Rule("token_embd.weight", ("embedding",)),
        Rule("output.weight", ("unembedding",)),
        *_norm("output_norm", "final_norm", norm),
        *_linear(layer + "attn_q", "attention/q", q),
        *_linear(layer + "attn_k", "attention/k", k),
        *_linear(layer + "attn_v", "attention/v"),
        *_linear(layer + "attn_output", "attention/o"),
        *(r for t in ("q", "k") for r in _norm(f"{layer}attn_{t}_norm", f"layers_{{i}}/attention/{t}_norm", norm)),
        *(r for t in ("gate", "up", "down") for r in _linear(f"{layer}ffn_{t}", f"mlp/{t}")),
        *(r for s, t in norms.items() for r in _norm(layer + s, f"layers_{{i}}/{t}", norm)),
    )


_PRE_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
_GEMMA_NORMS = {
    "input_layernorm": "attention_norm", "post_attention_layernorm": "attention_post_norm",
    "pre_feedforward_layernorm": "mlp_norm", "post_feedforward_layernorm": "mlp_post_norm",
}
_OUTPUT_NORMS = {
    "post_attention_layernorm": "attention_post_norm", "post_feedforward_layernorm": "mlp_post_norm",
}
_GGUF_NORMS = {"attn_norm": "attention_norm", "ffn_norm": "mlp_norm"}
_GGUF_OUTPUT_NORMS = {"post_attention_norm": "attention_post_norm", "post_ffw_norm": "mlp_post_norm"}
_GGUF_GEMMA_NORMS = {**_GGUF_NORMS, **_GGUF_OUTPUT_NORMS}



def _hf_table(rules: tuple[Rule, ...]) -> Table:
    return Table(rules, ("model.", ""), ("lm_head.weight",), (r"rotary_emb\.inv_freq$",))


_LLAMA_LIKE = _hf_table(_hf_decoder(_PRE_NORMS))

HF_TABLES: dict[str, Table] = {
    "llama": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "granite": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE,
    "olmo2": _hf_table(_hf_decoder(_OUTPUT_NORMS)),
    "phi3": _hf_table((
        Rule("embed_tokens.weight", ("embedding",)),
        Rule("lm_head.weight", ("unembedding",)),
        *_norm("norm", "final_norm"),
        *_qkv("layers.{i}.self_attn.qkv_proj", FUSED_QKV),
        *_linear("layers.{i}.self_attn.o_proj", "attention/o"),
        *_gate_up("layers.{i}.mlp.gate_up_proj"),
        *_linear("layers.{i}.mlp.down_proj", "mlp/down"),
        *(r for s, t in _PRE_NORMS.items() for r in _norm(f"layers.{{i}}.{s}", f"layers_{{i}}/{t}")),
    )),
    "gemma2": _hf_table(_hf_decoder(_GEMMA_NORMS)),
    "gemma3": Table(
        _hf_decoder(_GEMMA_NORMS),
        prefixes=("model.", "", "language_model.", "language_model.model.", "model.language_model."),
        unprefixed=("lm_head.weight",),
        ignored=(r"rotary_emb\.inv_freq$", r"^(model\.)?(vision_tower|multi_modal_projector)\."),
    ),
    "gpt2": Table(
        (
            Rule("wte.weight", ("embedding",)),
            Rule("wpe.weight", ("positions",)),
            Rule("lm_head.weight", ("unembedding",)),
            *_norm("ln_f", "final_norm"),
            *_norm("h.{i}.ln_1", "layers_{i}/attention_norm"),
            *_norm("h.{i}.ln_2", "layers_{i}/mlp_norm"),
            *_qkv("h.{i}.attn.c_attn", SPLIT),
            *_linear("h.{i}.attn.c_proj", "attention/o", COPY),
            *_linear("h.{i}.mlp.c_fc", "mlp/up", COPY),
            *_linear("h.{i}.mlp.c_proj", "mlp/down", COPY),
        ),
        prefixes=("transformer.", ""), unprefixed=("lm_head.weight",), ignored=(r"\.attn\.(bias|masked_bias)$",),
    ),
    "opt": Table(
        (
            Rule("embed_tokens.weight", ("embedding",)),
            Rule("embed_positions.weight", ("positions",)),
            Rule("lm_head.weight", ("unembedding",)),
            *_norm("final_layer_norm", "final_norm"),
            *_norm("layers.{i}.self_attn_layer_norm", "layers_{i}/attention_norm"),
            *_norm("layers.{i}.final_layer_norm", "layers_{i}/mlp_norm"),
            *(r for t in "qkv" for r in _linear(f"layers.{{i}}.self_attn.{t}_proj", f"attention/{t}")),
            *_linear("layers.{i}.self_attn.out_proj", "attention/o"),
            *_linear("layers.{i}.fc1", "mlp/up"),
            *_linear("layers.{i}.fc2", "mlp/down"),
        ),
        prefixes=("model.decoder.", "decoder.", ""), unprefixed=("lm_head.weight",),
    ),
}

# Rotary scaling, which `rope_configs` reads.
_GGUF_IGNORED = (r"^rope_freqs\.weight$", r"^rope_factors_(short|long)\.weight$")
_GGUF_LLAMA = Table(_gguf_decoder(ROPE_Q, ROPE_K, COPY, _GGUF_NORMS), ignored=_GGUF_IGNORED)
_GGUF_QWEN = Table(_gguf_decoder(TRANSPOSE, TRANSPOSE, COPY, _GGUF_NORMS))

GGUF_TABLES: dict[str, Table] = {
    "llama": _GGUF_LLAMA,
    "granite": _GGUF_LLAMA,
    "smollm3": _GGUF_LLAMA,
    "qwen2": _GGUF_QWEN,
    "qwen3": _GGUF_QWEN,
    "olmo2": Table(_gguf_decoder(TRANSPOSE, TRANSPOSE, COPY, _GGUF_OUTPUT_NORMS)),
    "phi3": Table(
        (
            Rule("token_embd.weight", ("embedding",)),
            Rule("output.weight", ("unembedding",)),
            *_norm("output_norm", "final_norm"),
            *_qkv("blk.{i}.attn_qkv", FUSED_QKV),
            *_linear("blk.{i}.attn_output", "attention/o"),
            *_gate_up("blk.{i}.ffn_up"),
            *_linear("blk.{i}.ffn_down", "mlp/down"),
            *(r for s, t in _GGUF_NORMS.items() for r in _norm(f"blk.{{i}}.{s}", f"layers_{{i}}/{t}")),
        ),
        ignored=_GGUF_IGNORED,
    ),
    "gemma2": Table(_gguf_decoder(TRANSPOSE, TRANSPOSE, MINUS_ONE, _GGUF_GEMMA_NORMS)),
    "gemma3": Table(_gguf_decoder(TRANSPOSE, TRANSPOSE, MINUS_ONE, _GGUF_GEMMA_NORMS)),
    "gpt2": Table((
        Rule("token_embd.weight", ("embedding",)),
        Rule("position_embd.weight", ("positions",)),
        Rule("output.weight", ("unembedding",)),
        *_norm("output_norm", "final_norm"),
        *_norm("blk.{i}.attn_norm", "layers_{i}/attention_norm"),
        *_norm("blk.{i}.ffn_norm", "layers_{i}/mlp_norm"),
        *_qkv("blk.{i}.attn_qkv", TRANSPOSE_SPLIT),
        *_linear("blk.{i}.attn_output", "attention/o"),
        *_linear("blk.{i}.ffn_up", "mlp/up"),
        *_linear("blk.{i}.ffn_down", "mlp/down"),
    )),
}
