"""The data of the report's sample browser: documents with all that was written about them, as plain JSON values.

Held-out samples stand first, because they show what training did; among those that are shown are the worst ones.

A training sample is the chain of one document in one iteration: draft, feedback, candidates with their scores, the
pick, and the policy's new draft where a later iteration drafts for the same document. A held-out sample is what a
system wrote for one document before training and after each iteration. Where N outputs were drawn for a held-out
document, there is a third kind: all of them with their rewards.
"""

import dataclasses
import difflib
import functools
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ilf_jax.evaluation import directions
from ilf_jax.records import Example
from ilf_jax.reporting import explanations, tables
from ilf_jax.reporting.workfolder import Iteration, WorkFolder
from ilf_jax.runtime.stage_folder import RECORDS_IN

MOST_SAMPLES = 500
MOST_BYTES = 2_300_000
"""Of all samples as JSON; with styles, figures and tables the page stays under 3 MB."""
LONGEST_TEXT = 8000
"""Characters; a longer text is cut, and says so."""
_MOST_CANDIDATES = 64
_CHAIN = ("draft", "feedback", "refine", "score")

Sample = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _View:
    """One list of samples.

    Attributes:
        ids: in the order of the data.
        make: turns an id into a sample and the example that it is about.
        first: ids that are shown before others, every other one, where not all are.
        score: what a sample's score is called.
    """

    kind: str
    system: str
    iteration: int | None
    ids: list[str]
    make: Callable[[str], tuple[Sample, Example]]
    first: Sequence[str] = ()
    score: str = "score"


def collect(work: WorkFolder, most: int = MOST_SAMPLES, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """What the page holds as JSON.

    Returns:
        `views`, one for each kind ("heldout", "training" or "best_of_n"), system and iteration that has samples: {kind,
        system, iteration, of (how many documents there are), worst (whether the worst ones are among the samples),
        score (what that is called), samples}; `documents`: those of training, and those held out, by id; `metric`, the
        leading one, or None; `better`, "lower", "higher" or None. Views share `most` samples and `most_bytes` evenly.
        Which documents they show, besides the worst, looks random and is the same on every call; they stand in the
        order of the data.
    """
    lead = tables.headline(work)
    sources = [*_heldout_views(work, lead), *_training_views(work), *_best_of_n_views(work)]
    chosen: list[dict[str, Sample]] = [{} for _ in sources]
    documents: dict[str, dict[str, dict[str, str]]] = {"training": {}, "heldout": {}}  # ids may be the same in both
    for index, key in _by_turns([_order_of_choice(source) for source in sources], most):
        sample, example = sources[index].make(key)
        of_kind = documents["training" if sources[index].kind == "training" else "heldout"]
        added = {} if key in of_kind else {key: _document(example)}
        most_bytes -= len(script_json(sample)) + len(script_json(added))
        if most_bytes < 0:
            break
        chosen[index][key] = sample
        of_kind |= added
    views = [{"kind": source.kind, "system": source.system, "iteration": source.iteration, "of": len(source.ids),
              "worst": bool(source.first), "score": source.score,
              "samples": [samples[key] for key in source.ids if key in samples]}
             for source, samples in zip(sources, chosen, strict=True) if samples]
    return {"views": views, "documents": documents, "metric": tables.spoken(lead) if lead else None,
            "better": directions.direction(lead, work.metric_directions) if lead else None}


def _order_of_choice(view: _View) -> list[str]:
    """All ids of a view; every other one is the next of `first`, as far as those go."""
    mixed = [i for pair in itertools.zip_longest(view.first, in_fixed_order(view.ids)) for i in pair if i is not None]
    return list(dict.fromkeys(mixed))


def script_json(value: Any) -> bytes:
    """JSON that ends no script element, whatever the texts in it say."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").encode()


def in_fixed_order(ids: Iterable[str]) -> list[str]:
    """The ids in an order that looks random, and in which two ids stand alike whatever others there are.

    So the first hundred of two iterations are about the same documents where both have them.
    """
    return sorted(ids, key=lambda i: (zlib.crc32(i.encode()), i))


def changed(before: str, after: str) -> float:
    """The share of words that differ, from 0 (equal) to 1 (nothing in common)."""
    old, new = before.split(), after.split()
    if not old and not new:
        return 0.0
    return round(1 - difflib.SequenceMatcher(None, old, new, autojunk=False).ratio(), 3)


def cut(text: str) -> str:
    """The text, or its beginning with a note."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} [… {len(text) - LONGEST_TEXT:,} more characters in the work folder]"


def _by_turns(lists: Sequence[Sequence[str]], most: int) -> Iterable[tuple[int, str]]:
    """(Index of a list, item): the first of each list, then the second of each; at most `most` in all."""
    longest = max(map(len, lists), default=0)
    turns = ((index, items[place]) for place in range(longest) for index, items in enumerate(lists)
             if place < len(items))
    return (turn for turn, _ in zip(turns, range(most), strict=False))


def _training_views(work: WorkFolder) -> list[_View]:
    """The run's iterations, then those of each baseline that has records of its own."""
    views = []
    for system, run in tables.runs(work).items():
        # A baseline that picks at random has random numbers for scores: the run's own are shown, of the same texts.
        judge = work if explanations.value(run.config, "score.method") in tables.BASELINES else run
        score = "score" if judge is run else f"{tables.own_label(work)}'s score"
        for iteration in run.iterations:
            stages = [iteration.stages[name] for name in _CHAIN if name in iteration.stages]
            if all(RECORDS_IN in stage.manifest for stage in stages):  # none, or all shared with the run
                continue
            ids = dict.fromkeys([*iteration.examples, *(key for stage in stages for key in stage.records)])
            there = [key for key in ids if any(key in stage.records for stage in stages)]
            views.append(_View("training", system, iteration.number, there,
                               functools.partial(_training_sample, run, judge, iteration), score=score))
    return views


def _scores(judge: WorkFolder, iteration: Iteration, key: str) -> list[float] | None:
    """The scores that a run has given to an iteration's refinements of the same draft with the same feedback.

    None where it has not, or its scorer does not judge.
    """
    own = next((i for i in judge.iterations if i.number == iteration.number), None)
    if own is None or explanations.value(judge.config, "score.method") in tables.BASELINES:
        return None
    scored = own.rows("score").get(key)
    return scored.scores if scored and _judged(own, key) == _judged(iteration, key) else None


def _judged(iteration: Iteration, key: str) -> list[Any]:
    """What a scorer reads: draft, feedback, refinements."""
    draft, feedback, refined = (iteration.rows(stage).get(key) for stage in ("draft", "feedback", "refine"))
    return [draft and draft.text, feedback and feedback.text, refined and refined.texts]


def _training_sample(
    work: WorkFolder, judge: WorkFolder, iteration: Iteration, key: str
) -> tuple[Sample, Example]:
    """Of the run `work`; scores are those of `judge`, itself or the run that it is a baseline of."""
    draft, feedback, refined, scored = (iteration.rows(s).get(key) for s in _CHAIN)
    example = iteration.examples.get(key, Example(key, ""))
    before = draft.text if draft else example.draft
    sample: Sample = {
        "id": key, "draft": cut(before), "feedback": cut(feedback.text if feedback else example.feedback),
        "source": feedback.source if feedback else "", "candidates": [], "score": None, "change": None}
    # Scores of another set of candidates, of a run under way, say nothing about these.
    picked = scored if scored and refined and len(scored.scores) == len(refined.texts) else None
    scores = _scores(judge, iteration, key) if picked is not None else None
    if refined is not None:
        shown = list(range(len(refined.texts)))[:_MOST_CANDIDATES]
        if picked is not None and picked.chosen not in shown:
            shown[-1] = picked.chosen
        sample["candidates"] = [
            {"text": cut(refined.texts[i]), "cut_off": not refined.stopped[i],
             "score": _rounded(scores[i]) if scores else None,
             "chosen": picked is not None and i == picked.chosen,
             "also": [name for name, pick in picked.picks.items() if pick == i] if picked else []} for i in shown]
    if refined is not None and picked is not None:
        given = feedback.refinement if feedback and picked.overruled_by else ""
        if given:
            sample["given"] = {"text": cut(given), "by": picked.overruled_by}
        elif scores:
            sample["score"] = _rounded(scores[picked.chosen])
        sample["change"] = changed(before, given or refined.texts[picked.chosen])
        if picked.draft_score is not None and scores and judge is work:
            sample["draft_score"] = _rounded(picked.draft_score)
    return sample | _later_draft(work, iteration.number, key), example


def _later_draft(work: WorkFolder, number: int, key: str) -> Sample:
    """What the policy wrote for the same document once it was trained; {} where it did not."""
    for iteration in work.iterations:
        draft = iteration.rows("draft").get(key) if iteration.number > number else None
        if draft is not None and draft.source == "policy":
            return {"new_draft": cut(draft.text), "new_draft_iteration": iteration.number}
    return {}


def _heldout_views(work: WorkFolder, lead: str | None) -> list[_View]:
    views = []
    for system, run in tables.runs(work).items():
        evaluated = [iteration for iteration in run.iterations if iteration.rows("evaluate")]
        written = {key for iteration in evaluated for key in iteration.rows("evaluate")}
        ids = dict.fromkeys(key for i in evaluated for key in (*i.heldout, *i.rows("evaluate")) if key in written)
        if ids:
            worst = _worst_first(work, lead, evaluated, list(ids))
            worse = {key: names for key, (_, names) in worst.items() if names}
            places = {key: place for place, key in enumerate(worst)}
            make = functools.partial(_heldout_sample, lead, evaluated, places, worse)
            views.append(_View("heldout", system, None, list(ids), make, list(worst), tables.spoken(lead or "")))
    return views


def _worst_first(
    work: WorkFolder, lead: str | None, evaluated: Sequence[Iteration], ids: Sequence[str]
) -> dict[str, tuple[float, list[str]]]:
    """By id, the worst first: the leading metric after training, where larger is worse, and which metrics got worse.

    {} where it is not known which end of the leading metric is better, or documents have no values of their own.
    """
    better = directions.direction(lead, work.metric_directions) if lead else None
    if lead is None or better is None:
        return {}

    def worsened(name: str, before: float, after: float) -> bool:
        end = directions.direction(name, work.metric_directions)
        return end is not None and after != before and (after > before) == (end == "lower")

    found = {}
    for key in ids:
        outputs = [i.rows("evaluate")[key].values for i in evaluated if key in i.rows("evaluate")]
        if lead in outputs[-1]:
            value = outputs[-1][lead] * (1 if better == "lower" else -1)
            names = [tables.spoken(name) for name, after in outputs[-1].items()
                     if name in outputs[0] and worsened(name, outputs[0][name], after)]
            found[key] = value, names
    order = {key: place for place, key in enumerate(in_fixed_order(found))}
    return dict(sorted(found.items(), key=lambda item: (-item[1][0], -len(item[1][1]), order[item[0]])))


def _heldout_sample(
    lead: str | None, evaluated: Sequence[Iteration], places: dict[str, int], worse: dict[str, list[str]], key: str
) -> tuple[Sample, Example]:
    outputs: list[dict[str, Any]] = []
    example = Example(key, "")
    for iteration in evaluated:
        output = iteration.rows("evaluate").get(key)
        example = iteration.heldout.get(key, example)
        if output is not None:
            value = output.values.get(lead) if lead else None
            outputs.append({"iteration": iteration.number, "text": cut(output.text), "cut_off": not output.stopped,
                            "value": None if value is None else _rounded(value)})
    first, last = outputs[0], outputs[-1]
    change = changed(first["text"], last["text"]) if len(outputs) > 1 else None
    return {"id": key, "outputs": outputs, "score": last["value"], "change": change, "worst": places.get(key),
            "worse": worse.get(key, [])}, example


def _best_of_n_views(work: WorkFolder) -> list[_View]:
    views = []
    for system, run in tables.runs(work).items():
        for iteration in run.iterations:
            rows = iteration.rows("best_of_n")
            ids = [key for key in dict.fromkeys([*iteration.heldout, *rows]) if key in rows]
            if ids:
                views.append(_View("best_of_n", system, iteration.number, ids,
                                   functools.partial(_best_of_n_sample, iteration)))
    return views


def _best_of_n_sample(iteration: Iteration, key: str) -> tuple[Sample, Example]:
    row = iteration.rows("best_of_n")[key]
    candidates = [{"text": cut(text), "cut_off": False, "score": _rounded(reward), "also": [],
                   "chosen": i == row.chosen}
                  for i, (text, reward) in enumerate(zip(row.texts, row.rewards, strict=True))]
    sample = {"id": key, "candidates": candidates, "score": _rounded(row.rewards[row.chosen]), "change": None}
    return sample, iteration.heldout.get(key, Example(key, ""))


def _document(example: Example) -> dict[str, str]:
    return {"title": cut(example.title), "text": cut(example.document), "reference": cut(example.reference),
            "human_refinement": cut(example.human_refinement)}


def _rounded(value: float) -> float:
    """Six significant digits: as JSON, more would only take room."""
    return float(f"{value:.6g}")
