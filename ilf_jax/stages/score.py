"""Score and select: R(x1 | x0, f, c) for every candidate, and the best of N. The baselines always stand beside it."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ilf_jax.evaluation import statistics
from ilf_jax.inference import answer_scoring as judge_lib
from ilf_jax.inference import reward_scorer
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored
from ilf_jax.runtime import performance, progress
from ilf_jax.sampling import decode
from ilf_jax.scoring import baselines, embedding, instruct_rm, selection
from ilf_jax.stages import context as run_lib
from ilf_jax.stages import picks
from ilf_jax.tasks.prompts import Question

# Documents whose scores make one shard, rounded up to whole batches.
_SHARD_DOCUMENTS = 8
# So many documents are judged in the paper's layout too, to say how far the tree agrees with it.
_COMPARED_DOCUMENTS = 16


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """The records of the stages before, by example id."""

    drafts: dict[str, Draft]
    feedback: dict[str, Feedback]
    candidates: dict[str, Candidates]


# Scores of each example's C candidates, and, for an ensemble, the C x P scores of its prompts.
_Scores = tuple[np.ndarray, list[list[float]]]
# What waits for the scores, for the device may still be at work; and what each example takes.
_Scorer = Callable[[list[Example]], tuple[Callable[[], list[_Scores]], list[performance.Work]]]


def run(run: run_lib.Run) -> None:
    """Writes a Scored for each example of the iteration."""
    folder, meter = run.folder("score"), performance.Meter()
    folder.begin()
    inputs = _Inputs(
        run.folder("draft").read(Draft), run.folder("feedback").read(Feedback), run.folder("refine").read(Candidates)
    )
    method = run.config.score.method
    scorers = {"instruct_rm": _instruct_rm, "embedding": _embedding, "reward_model": _reward_model}
    scorer = scorers.get(method, _baseline)(run, inputs)
    works: dict[str, performance.Work] = {}

    def start(batch: list[Example]) -> Callable[[], list[Scored]]:
        found, work = scorer(batch)
        works.update(zip((e.id for e in batch), work, strict=True))
        return lambda: [_select(run, e, inputs.candidates[e.id], *scores)
                        for e, scores in zip(batch, found(), strict=True)]

    batch_size = run.config.score.batch_size
    done = run_lib.process_shards(
        run, "score", run.examples, [len(e.document) for e in run.examples],
        -(-_SHARD_DOCUMENTS // batch_size) * batch_size, Scored, start, lambda scored: works[scored.id])
    numbers = picks.numbers(run, done.records, inputs.drafts, inputs.feedback, inputs.candidates)
    if method == "instruct_rm" and run.config.score.prompts == "tree":
        numbers += _agreement(run, done.records, inputs)
    metrics = run.summarise("score", numbers)
    cost = meter.cost(done.work, run.config.precision)
    folder.finish(shards=done.shards, count=len(done.records), cost=cost, metrics=metrics)


def _instruct_rm(run: run_lib.Run, inputs: _Inputs) -> _Scorer:
    """The ensemble: what prompts about one document have in common is computed once."""
    judge = run.roles.get("judge")
    asked_of = {e.id: judge_lib.ask(judge, e.id, _questions(run, e, inputs, run.config.score.prompts))
                for e in run.examples}
    arrangement = judge_lib.arrange(judge, asked_of.values())
    if not all(asked.exact for asked in asked_of.values()):
        progress.log("judge: an answer is more than one token here; it is scored by its first distinguishing one")

    def score(batch: list[Example]) -> tuple[Callable[[], list[_Scores]], list[performance.Work]]:
        asked = [asked_of[e.id] for e in batch]
        found = judge_lib.start_asking(judge, asked, run.config.score.batch_size, arrangement)
        scores = lambda: [(instruct_rm.ensemble(scores_CxP), scores_CxP.tolist()) for scores_CxP in found()]  # noqa: E731
        return scores, [one.work(judge.architecture, arrangement.together) for one in asked]

    return score


def _questions(run: run_lib.Run, example: Example, inputs: _Inputs, layout: str) -> list[list[Question]]:
    """The ensemble's questions about each of an example's candidates."""
    draft, feedback = inputs.drafts[example.id].text, inputs.feedback[example.id].text
    return [run.task.judge_questions(example, draft, feedback, text, layout)
            for text in inputs.candidates[example.id].texts]


def _agreement(run: run_lib.Run, scored: dict[str, Scored], inputs: _Inputs) -> list[statistics.Metric]:
    """Of the scores by the tree layout with those by the paper's: rank correlation within a document, equal picks."""
    judge, compared = run.roles.get("judge"), run.examples[:_COMPARED_DOCUMENTS]
    asked = [judge_lib.ask(judge, e.id, _questions(run, e, inputs, "paper")) for e in compared]
    found = judge_lib.favourable_probabilities(judge, asked, run.config.score.batch_size)
    by_paper = {e.id: instruct_rm.ensemble(scores_CxP) for e, scores_CxP in zip(compared, found, strict=True)}
    chosen = {e.id: _select(run, e, inputs.candidates[e.id], by_paper[e.id], []).chosen for e in compared}
    correlations = [rho for e in compared
                    if (rho := statistics.rank_correlation(scored[e.id].scores, by_paper[e.id].tolist())) is not None]
    metrics = [statistics.proportion("same_pick_as_paper_layout",
                                     [chosen[e.id] == scored[e.id].chosen for e in compared])]
    if correlations:
        metrics.append(statistics.mean("rank_correlation_with_paper_layout", correlations))
    return metrics


def _embedding(run: run_lib.Run, inputs: _Inputs) -> _Scorer:
    """Similarity of each candidate to the feedback."""
    embedder = run.roles.get("embedder")

    def score(batch: list[Example]) -> tuple[Callable[[], list[_Scores]], list[performance.Work]]:
        texts = [[inputs.feedback[e.id].text, *inputs.candidates[e.id].texts] for e in batch]
        vectors = iter(embedder.embed([text for group in texts for text in group], run.config.score.batch_size))
        stacked = [np.stack([next(vectors) for _ in group]) for group in texts]
        return lambda: [(embedding.cosine(rows[0], rows[1:]), []) for rows in stacked], _no_work(batch)

    return score


def _reward_model(run: run_lib.Run, inputs: _Inputs) -> _Scorer:
    """Rewards that know nothing of the feedback; a model that compares has the draft to compare with."""
    model = reward_scorer.Rewarder(run.roles.get("reward_model"), run.task, run.config.reward.kind)

    asked_of = {e.id: model.ask(e, inputs.candidates[e.id].texts, inputs.drafts[e.id].text) for e in run.examples}
    arrangement = model.arrange(asked_of.values())

    def score(batch: list[Example]) -> tuple[Callable[[], list[_Scores]], list[performance.Work]]:
        asked = [asked_of[e.id] for e in batch]
        found = model.start(asked, run.config.score.batch_size, arrangement)
        return lambda: [(rewards, []) for rewards in found()], [model.work(one, arrangement) for one in asked]

    return score


def _baseline(run: run_lib.Run, inputs: _Inputs) -> _Scorer:
    """random, longest or first, as configured."""
    method = run.config.score.method
    return lambda batch: (
        lambda: [(baseline_scores(run, e, inputs.candidates[e.id])[method], []) for e in batch], _no_work(batch)
    )


def _no_work(batch: Sequence[Example]) -> list[performance.Work]:
    return [performance.Work() for _ in batch]


def baseline_scores(run: run_lib.Run, example: Example, candidates: Candidates) -> dict[str, np.ndarray]:
    """Scores of the scorers that read nothing into a text, by name."""
    key = decode.candidate_keys(run.config.seed, run.iteration, "random_scores", [example.id], [0])[0, 0]
    return {
        "random": baselines.random_scores(candidates.texts, np.random.default_rng(key)),
        "longest": baselines.longest_scores(candidates.texts),
        "first": baselines.first_scores(candidates.texts),
    }


def _select(
    run: run_lib.Run, example: Example, candidates: Candidates, scores: np.ndarray, parts: list[list[float]]
) -> Scored:
    usable = np.array([[run.task.is_usable(example, text) for text in candidates.texts]])
    pick = lambda s: int(selection.best_of_n(np.asarray(s)[None], usable)[0])  # noqa: E731
    of_baselines = {name: pick(s) for name, s in baseline_scores(run, example, candidates).items()}
    return Scored(example.id, [float(s) for s in scores], pick(scores), of_baselines, parts)
