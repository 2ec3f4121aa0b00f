"""The systems of a run: whatever has written, or holds, one text for each held-out document, by name."""

from collections.abc import Callable, Iterable, Mapping

from ilf_jax.records import BestOfN, Example, Output

Texts = dict[str, str]
"""Example id -> text."""


def of_policies(
    target: str, iterations: int, best_of_n: int, outputs: Callable[[int], Mapping[str, Output]],
    best: Callable[[int], Mapping[str, BestOfN]],
) -> dict[str, Texts]:
    """`before_training`, the last iteration's policy, called by what it imitates, and the best of N of both.

    Args:
        target: config.finetune.target.
        best_of_n: N; 1: none were drawn.
        outputs, best: the records of an iteration's stages evaluate and best_of_n.
    """
    found = {}
    for k, name in {0: "before_training", **({iterations: target} if iterations else {})}.items():
        found[name] = {i: o.text for i, o in outputs(k).items()}
        if best_of_n > 1:
            found[f"{name}_best_of_{best_of_n}"] = {i: b.texts[b.chosen] for i, b in best(k).items()}
    return found


def of_people(held_out: Iterable[Example]) -> dict[str, Texts]:
    """`references` and `human_refinements`, where every held-out document has one."""
    examples = list(held_out)
    found = {f"{field}s": {e.id: getattr(e, field).strip() for e in examples}
             for field in ("reference", "human_refinement")}
    return {name: texts for name, texts in found.items() if texts and all(texts.values())}
