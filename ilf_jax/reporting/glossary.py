"""What the names of metrics mean, for people, a line each, where a report first shows them."""

import dataclasses
from collections.abc import Iterable

from ilf_jax import registry
from ilf_jax.evaluation import directions
from ilf_jax.reporting import tables
from ilf_jax.reporting.workfolder import WorkFolder

_GENERAL = {
    "stop_rate": "share of texts that ended by themselves, not at the limit max_new_tokens",
    "truncation_rate": "share of refinements that were cut at the limit max_new_tokens",
    "redrawn_rate": "share of documents whose refinements were drawn twice, because some were equal or unusable",
    "equal_candidates": "share of a document's refinements that equal another one of them",
    "documents_with_equal_candidates": "share of documents with at least two equal refinements",
    "equal_outputs": "share of outputs that equal the output for another document",
    "unique_outputs": "share of different texts among a document's N outputs",
    "candidate_words": "words in a refinement, on average",
    "feedback_incorporated": "share of refinements that do what the feedback asked, by the task's own program",
    "logprob_gap": "largest difference, in nats, of a token's log-probability between sampling and training; rounding",
    "logprob_gap_mean": "the same, on average over tokens",
    "logprob_gap_beyond": "share of tokens that differ by more than rounding explains",
    "win_rate": "share of comparisons with the output before training that the judge decides for the new one",
    "nll": "negative log-likelihood of the text, in nats a token",
    "kl": "divergence between the policies before and after training, in nats an output",
    "rouge": "overlap of words with the reference, from 0 to 1",
    "score_chosen": "score of the picked refinements, on average",
    "score_mean": "score of all refinements, on average",
}
_RIGHT_ANSWER = (
    "equal to the task's own answer, the draft corrected in just what the feedback named; faults that it left out stay")
_REFERENCE = "share of outputs equal to the reference"


def meaning(work: WorkFolder, stage: str, metric: str) -> str:
    """What a metric of a stage says; "" where the name has to do."""
    name = metric.partition("[")[0]
    if name.startswith("exact_match"):
        return _REFERENCE if stage == "evaluate" else _RIGHT_ANSWER
    task = str(work.config.get("task"))
    if task in registry.TASKS.builtins:  # not of a user's own: a report runs no code of others
        labels = {info.name: info.label for info in registry.TASKS.load(task).metrics}
        if name in labels:
            return labels[name]
    known = directions.longest_prefix(name, _GENERAL)
    return _GENERAL[known] if known else ""


@dataclasses.dataclass
class Glossary:
    """Explains each name once, in the order in which the page asks."""

    work: WorkFolder
    _known: set[str] = dataclasses.field(default_factory=set)

    def explain(self, stage: str, metrics: Iterable[str]) -> list[tuple[str, str]]:
        """(Name, meaning) of those that were not explained yet, and need it."""
        lines = []
        for metric in metrics:
            said = meaning(self.work, stage, metric)
            if said and said not in self._known:
                self._known.add(said)
                lines.append((tables.spoken(metric), said))
        return lines
