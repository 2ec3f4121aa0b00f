"""Numbers about a policy's outputs on held-out documents: the task's own, lengths, references, duplicates."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ilf_jax.evaluation import diversity, rouge, statistics
from ilf_jax.records import Example

Measure = Callable[[Mapping[str, str], Sequence[Example]], list[statistics.Metric]]
"""The task's own numbers about one text per example, averaged."""

MeasureOne = Callable[[Example, str], Mapping[str, float]]
"""The task's own numbers about one text."""


def values_of(
    example: Example, text: str, measure: MeasureOne, *, with_rouge: bool, exact_match: bool
) -> dict[str, float]:
    """The numbers about one output whose means `output_metrics` has, for paired comparisons; arguments as there."""
    values = {name: float(value) for name, value in measure(example, text).items()}
    if with_rouge and example.reference:
        values |= rouge.of_one(text, example.reference)
    if exact_match and example.reference:
        values["exact_match"] = float(text == example.reference)
    return values


def output_metrics(
    texts: Mapping[str, str], examples: Sequence[Example], measure: Measure, *, with_rouge: bool, exact_match: bool
) -> list[statistics.Metric]:
    """All of them; those of each group of examples, too, where examples have groups.

    Args:
        texts: output by example id.
        measure: the task's own numbers.
        with_rouge, exact_match: whether to compare with references, where there are any.
    """

    def of_examples(some: Sequence[Example]) -> list[statistics.Metric]:
        metrics = measure(texts, some)
        pairs = [(texts[e.id], e.reference) for e in some if e.reference]
        if with_rouge and pairs:
            metrics += rouge.rouge(*zip(*pairs, strict=True))
        if exact_match and pairs:
            metrics.append(statistics.proportion("exact_match", [text == reference for text, reference in pairs]))
        return metrics

    metrics = [*of_examples(examples), statistics.mean("mean_words", [len(text.split()) for text in texts.values()])]
    for group in dict.fromkeys(e.group for e in examples if e.group):
        of_group = of_examples([e for e in examples if e.group == group])
        metrics += [dataclasses.replace(m, name=f"{m.name}[{group}]") for m in of_group]
    if len(texts) > 1:
        _, equal, _ = diversity.diversity([list(texts.values())])
        metrics.append(statistics.Metric("equal_outputs", equal.value, float("nan"), len(texts)))
    return metrics
