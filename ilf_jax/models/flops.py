"""How many floating-point operations a model takes, a multiplication and an addition counted as two."""

import functools

import jax

from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig


def num_params(config: ModelConfig) -> int:
    """Entries of all params."""
    return sum(leaf.size for leaf in jax.tree.leaves(transformer.param_shapes(config)))


@functools.cache
def layer_params(config: ModelConfig) -> int:
    """Entries of the layers' matrices: what each token is multiplied by, but for the unembedding."""
    layers = {k: v for k, v in transformer.param_shapes(config).items() if k.startswith("layers_")}
    return sum(leaf.size for leaf in jax.tree.leaves(layers) if leaf.ndim == 2)


def forward(config: ModelConfig, *, tokens: float, seen: float, unembedded: float) -> float:
    """2 N + 4 layers heads head_dim seen for each token, and 2 V D for each logit row (Kaplan et al. 2020, table 1).

    As if every token went through all of the last layer, as is usual; `transformer` computes there what is wanted only.

    Args:
        tokens: how many go through the layers.
        seen: keys that a token attends to, on average; half the row's length where attention is causal.
        unembedded: positions whose logits are computed.
    """
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * seen
    logits = 2 * config.vocab_size * config.hidden_size
    return tokens * (2 * layer_params(config) + attention) + unembedded * logits


def generation(config: ModelConfig, *, prompts: int, candidates: int, prompt_tokens: int, new_tokens: float) -> float:
    """One prefix a prompt, and `new_tokens` tokens of each of its candidates behind it."""
    rows = prompts * candidates
    prefill = forward(config, tokens=prompts * prompt_tokens, seen=prompt_tokens / 2, unembedded=prompts)
    decode = forward(config, tokens=rows * new_tokens, seen=prompt_tokens + new_tokens / 2,
                     unembedded=rows * new_tokens)
    return prefill + decode


def training(config: ModelConfig, *, tokens: float, seen: float, targets: float) -> float:
    """Forwards and twice that backwards; what rematerialisation computes again does not count."""
    return 3 * forward(config, tokens=tokens, seen=seen, unembedded=targets)
