"""Where a chat template puts an answer: read off a rendered turn, so that training and judging see what it renders."""

import dataclasses
import re
import types
from collections.abc import Callable, Mapping, Sequence

from ilf_jax.errors import InputError
from ilf_jax.tokenizers.tokenizer import Tokenizer

Message = Mapping[str, str]
"""{"role", "content"}."""

THOUGHT_MARKERS = types.MappingProxyType({
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think")},
    "[THINK]": "[/THINK]", "<|START_THINKING|>": "<|END_THINKING|>", "\u25c1think\u25b7": "\u25c1/think\u25b7",
})
"""What opens a block of thoughts -> what closes it, in the layouts of published models."""
OPENS_THOUGHTS = re.compile("|".join(map(re.escape, THOUGHT_MARKERS)))
CLOSES_THOUGHTS = re.compile("|".join(map(re.escape, THOUGHT_MARKERS.values())))

_QUESTION = "Hi."
_ANSWER = "Qwzanswerqwz"


@dataclasses.dataclass(frozen=True)
class AssistantTurn:
    """How an answer continues a rendered prompt: prompt[:-dropped] + added + opening + answer + closing + end token.

    Attributes:
        dropped: characters at the prompt's end that the rendered turn does not have: a block opened for thinking.
        added: what the turn has before the answer and the prompt lacks; a model that samples reads it.
        unthought: the same, but read only where the answer is given, to learn it or to judge by it: the empty block
            that stands for the thoughts of a model that thinks. It counts as prompt: to learn it is not to think.
        opening: the same, but written by the model: a blank, which is part of the answer's first token.
        closing: between the answer and the token that ends the turn.
        end_id: that token; None where the template writes none.
    """

    dropped: int = 0
    added: str = ""
    unthought: str = ""
    opening: str = ""
    closing: str = ""
    end_id: int | None = None

    def prompt(self, rendered: str, *, answered: bool) -> str:
        """What a model is given that answers, or whose answer is given."""
        return rendered[: len(rendered) - self.dropped] + self.added + (self.unthought if answered else "")


def left_open(text: str) -> str | None:
    """What opens the last block of thoughts in a text, if nothing closes it."""
    opened = list(OPENS_THOUGHTS.finditer(text))
    return opened[-1][0] if opened and not CLOSES_THOUGHTS.search(text, opened[-1].end()) else None


def read_turn(
    tokenizer: Tokenizer, render: Callable[[Sequence[Sequence[Message]], bool], list[str]], thinks: bool
) -> AssistantTurn:
    """The turn of a chat template.

    Args:
        tokenizer: knows the token that ends a turn.
        render: the template, (conversations, add_generation_prompt) -> a text of each.
        thinks: whether the model is to think before it answers.

    Raises:
        InputError: the template fails on a question.
    """
    user, assistant = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    (prompt,) = render([[user]], True)
    try:
        (whole,) = render([[user, assistant]], False)
    except InputError:  # it has no turns of an assistant
        return AssistantTurn()
    before, found, behind = whole.rpartition(_ANSWER)
    if not found:
        return AssistantTurn()
    closing, end_id = tokenizer.closing(behind)
    turn = AssistantTurn(closing=closing, end_id=end_id)
    if before.startswith(prompt):
        rest = before[len(prompt) :]
        kept = len(rest.rstrip(" "))
        block = OPENS_THOUGHTS.search(rest) if thinks else None
        block_at = kept if block is None else block.start()
        return dataclasses.replace(turn, added=rest[:block_at], unthought=rest[block_at:kept], opening=rest[kept:])
    if prompt.startswith(before):
        extra = prompt[len(before) :]
        opened = left_open(extra)
        if opened is not None and thinks:
            return dataclasses.replace(turn, unthought=f"\n{THOUGHT_MARKERS[opened]}\n\n")
        if opened is not None:
            return dataclasses.replace(turn, dropped=len(extra))
    return turn
