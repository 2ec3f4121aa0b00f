"""What the policy is to imitate: the training pairs of an iteration, from the records of its stages."""

from collections.abc import Sequence

import numpy as np

from ilf_jax.config import STAGES_BEFORE_TARGET, Config
from ilf_jax.errors import InputError
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored, Target
from ilf_jax.scoring import selection
from ilf_jax.stages import context as run_lib


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
    if run.config.finetune.objective == "weighted":
        return _weighted(run, iteration, examples)
    texts = _texts(run, iteration, examples)
    return [Target(e.id, run.task.policy_prompt(e).text, texts[e.id], run.config.finetune.target)
            for e in examples if texts[e.id].strip()]


def _weighted(run: run_lib.Run, iteration: int, examples: tuple[Example, ...]) -> list[Target]:
    """All candidates of each example; their weights sum to 1."""
    candidates = run.folder("refine", iteration).read(Candidates)
    scored = run.folder("score", iteration).read(Scored)
    pairs = []
    for e in examples:
        texts = candidates[e.id].texts
        usable = np.array([[run.task.is_usable(e, text) for text in texts]])
        weights = selection.posterior_weights(np.array([scored[e.id].scores]), usable, run.config.finetune.beta)[0]
        prompt = run.task.policy_prompt(e).text
        pairs += [Target(e.id, prompt, text, "refinement", float(weight))
                  for text, weight in zip(texts, weights, strict=True) if text.strip() and weight > 0]
    return pairs


def _texts(run: run_lib.Run, iteration: int, examples: tuple[Example, ...]) -> dict[str, str]:
    target = run.config.finetune.target
    if target in ("reference", "human_refinement"):
        return {e.id: getattr(e, target) for e in examples}
    if target == "initial":
        return {i: d.text for i, d in run.folder("draft", iteration).read(Draft).items()}
    candidates = run.folder("refine", iteration).read(Candidates)
    scored = run.folder("score", iteration).read(Scored)
    index = {i: s.picks.get(target, s.chosen) for i, s in scored.items()}
    texts = {i: c.texts[index[i]] for i, c in candidates.items()}
    if target == "feedback_refinement":
        feedback = run.folder("feedback", iteration).read(Feedback)
        return {i: run.task.join_feedback(feedback[i].text, text) if text.strip() else "" for i, text in texts.items()}
    return texts
