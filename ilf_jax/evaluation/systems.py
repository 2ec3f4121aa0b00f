"""The systems of a run, by name. A system gives one text for each held-out document."""

from collections.abc import Callable, Iterable, Mapping

from ilf_jax.records import BestOfN, Example, Output

Texts = dict[str, str]
"""Example id -> text."""


def of_policies(
    target: str, iterations: int, best_of_n: int, outputs: Callable[[int], Mapping[str, Output]],
    best: Callable[[int], Mapping[str, BestOfN]],
) -> dict[str, Texts]:
    """`before_training`, the last iteration's policy, and the best of N of each.

    Args:
        target: name of the policy: config.finetune.target, or a baseline's name.
        iterations: number of the last iteration.
        best_of_n: N; 1 means that stage best_of_n did not run.
        outputs: iteration -> the records of its stage evaluate.
        best: iteration -> the records of its stage best_of_n.
    """
    systems = {}
    for k, name in {0: "before_training", **({iterations: target} if iterations else {})}.items():
        systems[name] = {i: o.text for i, o in outputs(k).items()}
        if best_of_n > 1:
            systems[f"{name}_best_of_{best_of_n}"] = {i: b.texts[b.chosen] for i, b in best(k).items()}
    return systems


def of_people(held_out: Iterable[Example]) -> dict[str, Texts]:
    """`references` and `human_refinements`, each only if every held-out document has one."""
    examples = list(held_out)
    systems = {f"{field}s": {e.id: getattr(e, field) for e in examples}
               for field in ("reference", "human_refinement")}
    return {name: texts for name, texts in systems.items() if texts and all(texts.values())}
