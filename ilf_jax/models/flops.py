"""Floating-point operations of a model. A multiply-add counts as two."""

import functools

import jax

from ilf_jax.models import transformer
from ilf_jax.models.architecture import ModelConfig


def num_params(config: ModelConfig) -> int:
    """Number of params."""
    return sum(leaf.size for leaf in jax.tree.leaves(transformer.param_shapes(config)))


@functools.cache
def layer_params(config: ModelConfig) -> int:
    """Number of params in the layers' matrices. Each token is multiplied by all of them."""
    layers = {k: v for k, v in transformer.param_shapes(config).items() if k.startswith("layers_")}
    return sum(leaf.size for leaf in jax.tree.leaves(layers) if leaf.ndim == 2)


def forward(config: ModelConfig, *, tokens: float, seen: float, unembedded: float) -> float:
    """A forward pass (Kaplan et al. 2020, table 1), in FLOPs.

    A token takes 2 N + 4 * layers * heads * head_dim * seen, a row of logits 2 V D. As is usual, this counts the whole
    last layer for every token, although `transformer` computes only the needed part of one outside a stack.

    Args:
        config: the model.
        tokens: number of tokens.
        seen: mean number of keys that a token attends to; half the row length for causal attention.
        unembedded: number of positions whose logits are computed.
    """
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * seen
    logits = 2 * config.vocab_size * config.hidden_size
    return tokens * (2 * layer_params(config) + attention) + unembedded * logits


def generation(config: ModelConfig, *, prompts: int, candidates: int, prompt_tokens: int, new_tokens: float) -> float:
    """Prefill of each prompt and decoding of its candidates, in FLOPs.

    Args:
        config: the model.
        prompts: number of prompts.
        candidates: candidates per prompt.
        prompt_tokens: tokens per prompt.
        new_tokens: mean number of tokens per candidate.
    """
    rows = prompts * candidates
    prefill = forward(config, tokens=prompts * prompt_tokens, seen=prompt_tokens / 2, unembedded=prompts)
    decode = forward(config, tokens=rows * new_tokens, seen=prompt_tokens + new_tokens / 2,
                     unembedded=rows * new_tokens)
    return prefill + decode


def training(config: ModelConfig, *, tokens: float, seen: float, targets: float) -> float:
    """Forward pass plus twice that for the backward pass, in FLOPs. Rematerialisation does not count."""
    return 3 * forward(config, tokens=tokens, seen=seen, unembedded=targets)
