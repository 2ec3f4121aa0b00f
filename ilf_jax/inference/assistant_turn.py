"""Where a chat template puts an answer: read off a rendered turn, so that training and judging see what it renders."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from ilf_jax.errors import InputError
from ilf_jax.tokenizers.tokenizer import Tokenizer

Message = Mapping[str, str]
"""{"role", "content"}."""

_QUESTION = "Hi."
_ANSWER = "Qwzanswerqwz"
# A block that a prompt opens and leaves open, such as <think>.
_OPEN_BLOCK = re.compile(r"<(\w+)>(?:(?!</\1>).)*$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class AssistantTurn:
    """How an answer continues a rendered prompt: prompt[:-dropped] + added + opening + answer + closing + end token.

    Attributes:
        dropped: characters at the prompt's end that the rendered turn does not have: a block opened for thinking.
        added: what the turn has before the answer and the prompt lacks; a model that samples reads it.
        opening: the same, but written by the model: a blank, which is part of the answer's first token; where the model
            thinks, the empty block that stands for its thoughts when it learns or judges.
        closing: between the answer and the token that ends the turn.
        end_id: that token; None where the template writes none.
    """

    dropped: int = 0
    added: str = ""
    opening: str = ""
    closing: str = ""
    end_id: int | None = None

    def prompt(self, rendered: str) -> str:
        """What a model that answers is given."""
        return rendered[: len(rendered) - self.dropped] + self.added


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
        kept = 0 if thinks else len(rest.rstrip(" "))
        return dataclasses.replace(turn, added=rest[:kept], opening=rest[kept:])
    if prompt.startswith(before):
        extra = prompt[len(before) :]
        block = _OPEN_BLOCK.search(extra)
        if block is not None and thinks:
            return dataclasses.replace(turn, opening=f"\n</{block[1]}>\n\n")
        if block is not None:
            return dataclasses.replace(turn, dropped=len(extra))
    return turn
