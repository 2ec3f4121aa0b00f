"""Feedback that the data holds."""

from collections.abc import Sequence

from ilf_jax.errors import InputError
from ilf_jax.records import Draft, Example, Feedback


def check(examples: Sequence[Example]) -> None:
    """Raises InputError for the first example without recorded feedback, or without the draft that it is about."""
    for example in examples:
        for field in ("feedback", "draft"):
            if not getattr(example, field).strip():
                raise InputError(
                    f"config.feedback.source='recorded', but document {example.id!r} has no {field}; map it by "
                    f"config.data.fields.{field}, or leave such rows out by config.data.skip_empty=('{field}',)"
                )


def give(examples: Sequence[Example], drafts: Sequence[Draft]) -> list[Feedback]:
    """The recorded feedback of each example."""
    del drafts  # check() has seen that the feedback comes with its own draft
    return [Feedback(e.id, e.feedback.strip(), "recorded") for e in examples]
