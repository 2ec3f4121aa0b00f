"""One training example token by token, with what is learned set apart."""

import sys

import numpy as np

from ilf_jax.tokenizers.tokenizer import Tokenizer
from ilf_jax.training import packing

_TRAINED, _PROMPT, _END = "\033[42;30m", "\033[2m", "\033[0m"


def show(tokenizer: Tokenizer, pair: packing.TrainingExample) -> None:
    """Prints it: green what is learned, dim what is only read; the end token is learned too."""
    pieces = tokenizer.token_texts
    color = sys.stdout.isatty()
    shown = []
    for token, weight in zip(pair.tokens.tolist(), pair.weights.tolist(), strict=True):
        text = pieces[token]
        if token in tokenizer.stop_ids and token == pair.tokens[-1]:
            text = text or "<end>"
        if color:
            shown.append(f"{_TRAINED if weight == 1 else _PROMPT}{text}{_END}")
        else:
            shown.append(f"[{text}]" if weight == 1 else text)
    legend = "green: learned" if color else "[in brackets]: learned"
    print(f"one training example ({legend}; {pair.num_targets} of {len(pair)} tokens carry loss, "
          f"weights {sorted({float(w) for w in np.unique(pair.weights)})}):")
    print("".join(shown))
