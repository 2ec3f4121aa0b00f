"""A model that thinks first: its thoughts, a block such as <think>...</think>, within a budget; then its output."""

import hashlib
from collections.abc import Sequence

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.inference.assistant_turn import CLOSES_THOUGHTS, OPENS_THOUGHTS, THOUGHT_MARKERS, left_open
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.runtime import progress


def check_budget(lm: LanguageModel) -> None:
    """Raises InputError if config.*.thinking_tokens is given for a model that nothing asks to think.

    Where a template does not ask, but the vocabulary or the template has a marker of thoughts, models may think by
    themselves; that is logged.
    """
    if not lm.settings.thinking_tokens:
        return
    where = f"config.{lm.name}.thinking_tokens={lm.settings.thinking_tokens}"
    if not lm.uses_chat:
        reason = f"config.{lm.name}.chat='never'" if lm.tokenizer.chat else "it has no chat template"
        raise InputError(f"{where}: a model is asked to think by its chat template, and {lm.settings.checkpoint} is "
                         f"prompted without one ({reason}); set thinking_tokens to 0")
    if lm.asks_for_thoughts:
        return
    markers = [*THOUGHT_MARKERS, *THOUGHT_MARKERS.values()]
    source = lm.tokenizer.chat.source(lm.settings.chat_template)
    known = [m for m in markers if lm.tokenizer.token_id(m) is not None or m in source]
    if not known:
        raise InputError(f"{where}: the model {lm.settings.checkpoint} does not think: its chat template renders the "
                         "same with and without enable_thinking and opens no block of thoughts, and its vocabulary has "
                         "no marker of one; set thinking_tokens to 0")
    progress.log(f"{where}: the chat template does not ask for thoughts; they are looked for all the same, because "
                 f"{lm.settings.checkpoint} knows {known[0]}")


def closes(text: str) -> bool:
    """Whether a text closes a block of thoughts."""
    return CLOSES_THOUGHTS.search(text) is not None


def without_thoughts(text: str) -> str:
    """An output without the thoughts before it, where a model has thought unasked; '' if it has not come to an end."""
    closed = list(CLOSES_THOUGHTS.finditer(text))
    if closed:
        return text[closed[-1].end() :].lstrip()
    return "" if OPENS_THOUGHTS.match(text.lstrip()) else text


def answer_prompt(lm: LanguageModel, prompt: Encoded, thoughts: Sequence[int]) -> Encoded:
    """The prompt of the output behind thoughts; the block is closed where the budget or an end token has cut it off.

    Args:
        lm: the model that has thought.
        prompt: what it was given.
        thoughts: tokens that it has written.
    """
    kept = [int(i) for i in thoughts if i not in lm.end_ids]
    written = lm.decode(kept)
    if closes(written):
        low, high = 1, len(kept)  # the shortest part that closes it: a marker may be several tokens
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if closes(lm.decode(kept[:middle])) else (middle + 1, high)
        kept, rest = kept[:low], "\n\n"
    else:
        rest = f"\n{_closer(lm, written)}\n\n"
    behind = lm.tokenizer.encode_continuation((), "", rest)
    return Encoded(prompt.id, prompt.text, [*prompt.ids, *kept, *behind])


def _closer(lm: LanguageModel, written: str) -> str:
    """What closes the block that the model has opened, else the one that its template writes."""
    opened = left_open(written)
    if opened is not None:
        return THOUGHT_MARKERS[opened]
    closed = CLOSES_THOUGHTS.search(lm.turn.unthought)
    return closed[0] if closed is not None else "</think>"


def output_keys(keys_BxCx2: np.ndarray) -> np.ndarray:
    """Keys of the outputs, BC x 1 x 2 (uint32): each follows from that of its thoughts alone."""
    digests = [hashlib.blake2b(key.tobytes(), digest_size=8, person=b"output").digest()
               for key in keys_BxCx2.reshape(-1, 2)]
    return np.array([np.frombuffer(digest, np.uint32) for digest in digests]).reshape(-1, 1, 2)
