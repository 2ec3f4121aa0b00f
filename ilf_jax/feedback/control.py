"""Controls: what is put in the place of a source's feedback, so that a run shows what the words are worth."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax.config import Config
from ilf_jax.errors import InputError
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource, SourceContext
from ilf_jax.feedback.withheld import Withheld
from ilf_jax.records import Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks.task import Task

PRAISE = "Well done. This is very good work."


def shuffled(ids: Sequence[str], seed: int, iteration: int) -> dict[str, str]:
    """For each document another one, whose feedback it gets: one cycle through all, in an order drawn by the seed.

    No document gets its own, each one's is given once, and the order of `ids` does not matter.
    """
    order = sorted(ids)
    np.random.default_rng((seed, iteration)).shuffle(order)
    return dict(zip(order, [*order[1:], *order[:1]], strict=True))


class EmptyPraise(FeedbackSource):
    """The same praise for every draft."""

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Ready at once."""
        return Pending.ready([Feedback(d.example.id, PRAISE, "empty_praise") for d in documents])


def check(config: Config, task: Task, examples: Sequence[Example] | None) -> None:
    """Raises InputError if the control does not go with the run.

    Args:
        examples: the documents to learn from; None while only the configuration is known.
    """
    control = config.feedback.control
    if control and config.feedback.source == "none":
        raise InputError(f"config.feedback.control={control!r} with config.feedback.source='none': there is no "
                         "feedback to replace")
    if control == "withheld":
        Withheld.check(config, task, examples, "config.feedback.control='withheld'")
    if control == "shuffled" and examples is not None and len({e.id for e in examples}) < 2:
        raise InputError("config.feedback.control='shuffled' gives a document another one's feedback: it needs two "
                         "documents an iteration or more; raise config.data.train_size")


def replaced(control: str, context: SourceContext) -> FeedbackSource | None:
    """What stands in for the source with a control that asks nobody; None for others."""
    return {"withheld": Withheld, "empty_praise": EmptyPraise}[control](context) if control in (
        "withheld", "empty_praise") else None


def exchanged(givers: Mapping[str, str], of_givers: Mapping[str, Feedback]) -> list[Feedback]:
    """Each document's feedback: what its giver was told, under its own id. None where the giver was told nothing.

    A refinement stays behind: it is a text about the giver's document.
    """
    return [of_givers[giver] if giver == i else
            dataclasses.replace(of_givers[giver], id=i, refinement="", refinement_by="")
            for i, giver in givers.items() if giver in of_givers]
