"""Which metrics are better low and which high, apart from those that a task declares itself (`Task.metrics`)."""

from collections.abc import Iterable, Mapping

DIRECTIONS: Mapping[str, str] = {
    "win_rate": "higher", "rouge": "higher", "exact_match": "higher", "accuracy": "higher",
    "feedback_incorporated": "higher", "stop_rate": "higher", "unique_outputs": "higher",
    "nll": "lower", "target_nll": "lower", "loss": "lower", "kl": "lower", "calibration_error": "lower",
    "logprob_gap": "lower", "truncation_rate": "lower", "redrawn_rate": "lower", "equal_candidates": "lower",
    "documents_with_equal_candidates": "lower", "equal_outputs": "lower",
}
"""First words of a metric's name -> "lower" or "higher"."""

HEADLINES = ("win_rate", "nll_human_refinement", "nll_reference", "rouge_l")
"""What leads a report, the first that was measured, where neither configuration nor task names a metric."""


def direction(metric: str, of_task: Mapping[str, str]) -> str | None:
    """"lower" or "higher", whichever is better; None where that is unknown.

    Args:
        metric: its name; what follows in brackets, or after more underscores, may narrow it down (rouge_l[news]).
        of_task: the directions of the task's metrics. They go before the general ones.
    """
    name = metric.partition("[")[0]
    for directions in (of_task, DIRECTIONS):
        key = longest_prefix(name, directions)
        if key is not None:
            return directions[key]
    return None


def longest_prefix(name: str, keys: Iterable[str]) -> str | None:
    """The longest of `keys` that is `name` or its beginning up to an underscore; None where there is none."""
    return max((key for key in keys if name == key or name.startswith(f"{key}_")), key=len, default=None)
