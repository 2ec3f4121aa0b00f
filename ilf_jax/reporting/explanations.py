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
_MOST_KEYS = 3  # that a line names
# What differs between a run and any of its baselines, or follows from the rest.
_NOT_NAMED = ("baselines", "source_hashes", "draft.source")


def of_run(work: WorkFolder) -> str:
    """Of the run itself, after training."""
    if work.config.get("iterations") == 0:
        return "the policy as it was given, not trained"
    target = _value(work.config, "finetune.target")
    if target != "refinement":
        return _OF_TARGETS.get(str(target), "the run itself")
    objective = _value(work.config, "finetune.objective")
    by = "" if objective in (None, "nll") else f" by {objective}"
    return f"learns the best refinement, picked by {_short(_value(work.config, 'score.method') or 'the scorer')}{by}"


def of_baseline(work: WorkFolder, name: str) -> str:
    """Of a baseline: what it imitates, or what of its configuration differs from the run's."""
    own, theirs = _flat(work.config), _flat(work.baselines[name].config)
    differing = {key: value for key, value in theirs.items()
                 if key in own and own[key] != value and not key.startswith(_NOT_NAMED)}
    target = differing.pop("finetune.target", None)
    if differing.get("score.method") == target:  # a scorer that only picks so
        differing.pop("score.method", None)
    said = [_OF_TARGETS[str(target)]] if target in _OF_TARGETS else []
    if differing.get("feedback.control") == "shuffled":
        said.append("the same, with another document's feedback")
        del differing["feedback.control"]
    named = [f"{key} = {_short(value)}" for key, value in list(differing.items())[:_MOST_KEYS]]
    more = len(differing) - len(named)
    return "; ".join([*said, *named, *([f"{more} more keys"] if more > 0 else [])]) or "the run's own settings"


def of_best_of(work: WorkFolder, label: str) -> str:
    """Of the best of N outputs of a system."""
    count = _value(work.config, "evaluate.best_of_n")
    return f"of {count} outputs of {label} the one that the reward model likes best"


BEFORE_TRAINING = "the policy as it was given"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _value(config: Mapping[str, Any], key: str) -> Any:
    return _flat(config).get(key)


def _short(value: Any) -> str:
    """Of a user's own code, file:PATH:NAME, the name."""
    text = str(value)
    return text.rpartition(":")[2] if text.startswith(("file:", "module:")) else text


def of_systems(work: WorkFolder) -> dict[str, str]:
    """All of `tables.systems`, by label."""
    lines = {tables.own_label(work): of_run(work)}
    lines |= {tables.TARGET_LABELS.get(name, name): of_baseline(work, name) for name in work.baselines}
    for label, (run, stage) in tables.systems(work).items():
        if stage == "best_of_n":
            lines[label] = of_best_of(run, label.rpartition(", best of ")[0])
    return lines
