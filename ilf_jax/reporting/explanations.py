"""What each system of a report is, in one line."""

from collections.abc import Mapping
from typing import Any

from ilf_jax.reporting import tables
from ilf_jax.reporting.workfolder import WorkFolder

_OF_TARGETS = {
    "feedback_refinement": "learns to write the feedback and the refinement",
    "initial": "learns its own drafts: no feedback, no refinement",
    "random": "learns one of the refinements, picked at random",
    "longest": "learns the longest of the refinements",
    "first": "learns the first refinement that was drawn: no picking",
    "reference": "learns the references of the data",
    "human_refinement": "learns the refinements that people wrote",
}
# What it shows that a baseline is not clearly different, by the text that it imitates.
_TIES = {
    "initial": "Learning from refinements added nothing measurable here",
    **dict.fromkeys(("random", "longest", "first"), "Picking by the scorer added nothing measurable here"),
}
_MOST_KEYS = 3  # that a line names
_PICKED_BY = {"finetune.target", "score.method"}
# What differs between a run and any of its baselines, or follows from the rest.
_NOT_NAMED = ("baselines", "source_hashes", "draft.source")


def of_run(work: WorkFolder) -> str:
    """Of the run itself, after training."""
    if work.config.get("iterations") == 0:
        return "the policy as it was given, not trained"
    target = value(work.config, "finetune.target")
    if target != "refinement":
        return _OF_TARGETS.get(str(target), "the run itself")
    objective = value(work.config, "finetune.objective")
    by = "" if objective in (None, "nll") else f" by {objective}"
    return f"learns the best refinement, picked by {short(value(work.config, 'score.method') or 'the scorer')}{by}"


_SCORERS = {
    "instruct_rm": "asks config.judge whether a refinement does as the feedback says; its score, from 0 to 1, is the "
                   "probability of the favourable answer, on average over {prompts}the questions",
    "embedding": "its score is the cosine of feedback and refinement, as config.embedder embeds them, from -1 to 1",
    "reward_model": "its score is the reward of config.reward_model, in nats, without a fixed range",
    "random": "picks any refinement; it does not judge",
    "longest": "picks the longest refinement; it does not judge",
    "first": "picks the first refinement; it does not judge",
}


def of_scorer(work: WorkFolder) -> tuple[str, str]:
    """Of the scorer that picks the run's refinements: its name, and what its score means; ("", "") without one."""
    last = next((i for i in reversed(work.iterations) if i.rows("score")), None)
    if last is None:
        return "", ""
    name = str(value(work.config, "score.method") or "the scorer")
    prompts = len(next((row.prompt_scores[0] for row in last.rows("score").values() if row.prompt_scores), []))
    meaning = _SCORERS.get(name, "its score is what your own code returns")
    return short(name), meaning.replace("{prompts}the", str(prompts) if prompts else "the")


def of_baseline(work: WorkFolder, name: str) -> str:
    """Of a baseline: what it imitates, or what of its configuration differs from the run's."""
    differing = _differing(work, name)
    target = differing.pop("finetune.target", None)
    if differing.get("score.method") == target:  # a scorer that only picks so
        differing.pop("score.method", None)
    said = [_OF_TARGETS[str(target)]] if target in _OF_TARGETS else []
    if differing.get("feedback.control") == "shuffled":
        said.append("the same, with another document's feedback")
        del differing["feedback.control"]
    named = [f"{key} = {short(value)}" for key, value in list(differing.items())[:_MOST_KEYS]]
    more = len(differing) - len(named)
    return "; ".join([*said, *named, *([f"{more} more keys"] if more > 0 else [])]) or "the run's own settings"


def lesson_of_tie(work: WorkFolder, name: str) -> str:
    """What it shows that a baseline is not clearly different: which part of ILF added nothing; "" where it is none."""
    differing = _differing(work, name)
    if differing == {"feedback.control": "shuffled"}:
        return "What the feedback said made no measurable difference here"
    if value(work.config, "finetune.target") != "refinement" or not differing.keys() <= _PICKED_BY:
        return ""
    return _TIES.get(str(differing.get("finetune.target", differing.get("score.method"))), "")


def _differing(work: WorkFolder, name: str) -> dict[str, Any]:
    """What a baseline sets otherwise than the run, by dotted key."""
    own, theirs = _flat(work.config), _flat(work.baselines[name].config)
    return {key: value for key, value in theirs.items()
            if key in own and own[key] != value and not key.startswith(_NOT_NAMED)}


def of_best_of(work: WorkFolder) -> str:
    """Of the best of N outputs of a system."""
    return f"the reward model's pick of {value(work.config, 'evaluate.best_of_n')} outputs"


BEFORE_TRAINING = "the policy as it was given"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def value(config: Mapping[str, Any], key: str) -> Any:
    """Of a dotted key; None where it is not set."""
    return _flat(config).get(key)


def short(value: Any) -> str:
    """Of a user's own code, file:PATH:NAME, the name."""
    text = str(value)
    return text.rpartition(":")[2] if text.startswith(("file:", "module:")) else text


def of_systems(work: WorkFolder) -> dict[str, str]:
    """All of `tables.systems`, by label."""
    lines = {tables.own_label(work): of_run(work)}
    lines |= {tables.TARGET_LABELS.get(name, name): of_baseline(work, name) for name in work.baselines}
    for label, (run, stage) in tables.systems(work).items():
        if stage == "best_of_n":
            lines[label] = of_best_of(run)
    return lines
