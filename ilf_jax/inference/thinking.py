"""A model that thinks first: its thoughts, a block such as <think>...</think>, within a budget; then its output."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from ilf_jax.inference.language_model import Encoded, LanguageModel

_NAMES = "think|thinking|thought|reasoning"
_OPENED = re.compile(f"<({_NAMES})>")
_CLOSED = re.compile(f"</({_NAMES})>")


def closes(text: str) -> bool:
    """Whether a text closes a block of thoughts."""
    return _CLOSED.search(text) is not None


def without_thoughts(text: str) -> str:
    """An output without the thoughts before it, where a model has thought unasked."""
    closed = list(_CLOSED.finditer(text))
    return text[closed[-1].end() :].lstrip() if closed else text


def answer_prompt(lm: LanguageModel, prompt: Encoded, thoughts: Sequence[int]) -> Encoded:
    """The prompt of the output behind thoughts; the block is closed where the budget or an end token has cut it off.

    Args:
        lm: the model that has thought.
        prompt: what it was given.
        thoughts: tokens that it has written.
    """
    kept = [int(i) for i in thoughts if i not in lm.end_ids]
    if closes(lm.tokenizer.decode(kept)):
        low, high = 1, len(kept)  # the shortest part that closes it: a marker may be several tokens
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if closes(lm.tokenizer.decode(kept[:middle])) else (middle + 1, high)
        kept, rest = kept[:low], "\n\n"
    else:
        names = _OPENED.findall(prompt.text + lm.tokenizer.decode(kept)) or ["think"]
        rest = f"\n</{names[-1]}>\n\n"
    behind = lm.tokenizer.encode_continuation((), "", rest)
    return Encoded(prompt.id, prompt.text, [*prompt.ids, *kept, *behind])


def output_keys(keys_BxCx2: np.ndarray) -> np.ndarray:
    """Keys of the outputs, BC x 1 x 2 (uint32): each follows from that of its thoughts alone."""
    digests = [hashlib.blake2b(key.tobytes(), digest_size=8, person=b"output").digest()
               for key in keys_BxCx2.reshape(-1, 2)]
    return np.array([np.frombuffer(digest, np.uint32) for digest in digests]).reshape(-1, 1, 2)
