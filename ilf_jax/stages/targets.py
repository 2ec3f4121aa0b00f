"""What the policy is to imitate: the training pairs of an iteration, from the records of its stages."""

from collections.abc import Sequence
from typing import TypeVar

from ilf_jax.config import STAGES_BEFORE_TARGET, Config
from ilf_jax.errors import InputError
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored, Target
from ilf_jax.stages import context as run_lib
from ilf_jax.training import objectives
from ilf_jax.training.objectives import LearnedFrom

R = TypeVar("R")


def needed_stages(config: Config) -> tuple[str, ...]:
    """Stages to run before finetuning, in order."""
    return STAGES_BEFORE_TARGET[config.finetune.target] if config.iterations else ()


def check(config: Config, examples: Sequence[Example]) -> None:
    """Raises InputError if the targets are to come from a data field that an example lacks."""
    field = config.finetune.target
    if field not in ("reference", "human_refinement"):
        return
    for example in examples:
        if not getattr(example, field).strip():
            raise InputError(f"config.finetune.target={field!r}, but document {example.id!r} has none; map it by "
                             f"config.data.fields.{field}, or leave such rows out by "
                             f"config.data.skip_empty=({field!r},)")


def of_iteration(run: run_lib.Run, iteration: int, examples: tuple[Example, ...]) -> list[Target]:
    """The pairs of one iteration, in the order of its examples. An empty text teaches nothing and is left out."""
    settings = run.config.finetune
    objective = objectives.BUILT_IN[settings.objective]
    return [target for learned in _learned_from(run, iteration, examples)
            for target in objective.targets(learned, settings)]


def _learned_from(run: run_lib.Run, iteration: int, examples: tuple[Example, ...]) -> list[LearnedFrom]:
    """The records of an iteration, document by document."""
    target, needed = run.config.finetune.target, needed_stages(run.config)

    def read(stage: str, cls: type[R]) -> dict[str, R]:
        return run.folder(stage, iteration).read(cls) if stage in needed else {}

    drafts, feedback = read("draft", Draft), read("feedback", Feedback)
    candidates, scored = read("refine", Candidates), read("score", Scored)
    learned = []
    for e in examples:
        if target in ("reference", "human_refinement"):
            text = getattr(e, target)
        elif target == "initial":
            text = drafts[e.id].text
        else:
            text = candidates[e.id].texts[scored[e.id].picks.get(target, scored[e.id].chosen)]
            if target == "feedback_refinement" and text.strip():
                text = run.task.join_feedback(feedback[e.id].text, text)
        usable = tuple(run.task.is_usable(e, text) for text in candidates[e.id].texts) if candidates else ()
        learned.append(LearnedFrom(
            example=e, prompt=run.task.policy_prompt(e).text, text=text, source=target, draft=drafts.get(e.id),
            feedback=feedback.get(e.id), candidates=candidates.get(e.id), scored=scored.get(e.id), usable=usable,
        ))
    return learned
