"""How good the picked refinements are, and those that other ways of picking would have taken."""

from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax.evaluation import statistics, win_rate
from ilf_jax.records import Candidates, Draft, Feedback, Scored
from ilf_jax.scoring import selection
from ilf_jax.stages import context as run_lib
from ilf_jax.stages import outputs

_BASELINES = ("random", "longest", "first")


def numbers(
    run: run_lib.Run, scored: Mapping[str, Scored], drafts: Mapping[str, Draft], feedback: Mapping[str, Feedback],
    candidates: Mapping[str, Candidates],
) -> list[statistics.Metric]:
    """Scores, and where they can be told: exact matches, feedback taken in, win rates against the draft."""
    rows = [scored[e.id] for e in run.examples]
    found = [statistics.mean("score_chosen", [row.scores[row.chosen] for row in rows]),
             statistics.mean("score_mean", [float(np.mean(row.scores)) for row in rows])]
    texts = {name: {row.id: candidates[row.id].texts[index] for row, index in zip(rows, picked, strict=True)}
             for name, picked in _picked(rows).items()}
    if run.task.has_oracle:
        found += _by_oracle(run, texts, drafts, feedback)
    elif run.config.score.method == "instruct_rm":
        found += [statistics.proportion(f"feedback_incorporated_{name}",
                                        [row.scores[index] > 0.5 for row, index in zip(rows, picked, strict=True)])
                  for name, picked in _picked(rows).items()]
    if run.config.score.win_rate:
        found += _against_drafts(run, rows, texts, drafts, candidates)
    return found


def _picked(rows: Sequence[Scored]) -> dict[str, list[int]]:
    """Indices by way of picking: the scorer, then the baselines."""
    return {"chosen": [row.chosen for row in rows], **{name: [row.picks[name] for row in rows] for name in _BASELINES}}


def _by_oracle(
    run: run_lib.Run, texts: Mapping[str, Mapping[str, str]], drafts: Mapping[str, Draft],
    feedback: Mapping[str, Feedback],
) -> list[statistics.Metric]:
    """Share of picked texts that are just right, and that take in the feedback."""
    found = []
    for name, picked in texts.items():
        given = [(e, drafts[e.id].text, feedback[e.id].text) for e in run.examples]
        right = [picked[e.id] == run.task.oracle_refinement(e, *about) for e, *about in given]
        taken_in = [run.task.oracle_incorporates(e, *about, picked[e.id]) for e, *about in given]
        found += [statistics.proportion(f"exact_match_{name}", right),
                  statistics.proportion(f"feedback_incorporated_{name}", taken_in)]
    return found


def _against_drafts(
    run: run_lib.Run, rows: Sequence[Scored], texts: Mapping[str, Mapping[str, str]], drafts: Mapping[str, Draft],
    candidates: Mapping[str, Candidates],
) -> list[statistics.Metric]:
    """Win rates of picked refinements against the drafts, by the judge; so of people's, and of each single prompt."""
    systems = dict(texts)
    for i in range(len(rows[0].prompt_scores[0]) if rows[0].prompt_scores else 0):
        by_prompt = {row.id: np.array([[prompts[i] for prompts in row.prompt_scores]]) for row in rows}
        usable = {e.id: np.array([[run.task.is_usable(e, text) for text in candidates[e.id].texts]])
                  for e in run.examples}
        systems[f"prompt_{i + 1}"] = {
            j: candidates[j].texts[int(selection.best_of_n(by_prompt[j], usable[j])[0])] for j in by_prompt}
    people = {e.id: e.human_refinement.strip() for e in run.examples}
    if all(people.values()):
        systems["human_refinement"] = people
    judge, before = run.roles.get("judge"), {i: d.text for i, d in drafts.items()}
    return [win_rate.win_rate(*outputs.both_orders(run, judge, run.examples, ours, before), name=f"win_rate_{name}")
            for name, ours in systems.items()]
