"""Shows the loss mask of one training example, token by token."""

import sys

import numpy as np

from ilf_jax.tokenizers.tokenizer import Tokenizer
from ilf_jax.training import packing

_TRAINED, _PROMPT, _END = "\033[42;30m", "\033[2m", "\033[0m"


def show(tokenizer: Tokenizer, example: packing.TrainingExample) -> None:
    """Prints the example: trained tokens green (end token included), others dim; brackets if there is no terminal."""
    pieces = tokenizer.token_texts
    color = sys.stdout.isatty()
    marked = []
    for token, weight in zip(example.tokens.tolist(), example.weights.tolist(), strict=True):
        text = pieces[token]
        if token in tokenizer.stop_ids and token == example.tokens[-1]:
            text = text or "<end>"
        if color:
            marked.append(f"{_TRAINED if weight == 1 else _PROMPT}{text}{_END}")
        else:
            marked.append(f"[{text}]" if weight == 1 else text)
    legend = "green: trained" if color else "[in brackets]: trained"
    print(f"one training example ({legend}; {example.num_targets} of {len(example)} tokens carry loss, "
          f"weights {sorted({float(w) for w in np.unique(example.weights)})}):")
    print("".join(marked))
