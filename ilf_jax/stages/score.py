"""Score and select: R(x1 | x0, f, c) for every candidate, and the best of N. The baselines always stand beside it."""

import numpy as np

from ilf_jax import progress
from ilf_jax.evaluation import statistics
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored
from ilf_jax.sampling import decode
from ilf_jax.scoring import baselines, embedding, instruct_rm, selection
from ilf_jax.stages import judge as judge_lib
from ilf_jax.stages import run as run_lib

# Documents whose scores make one shard.
_SHARD_DOCUMENTS = 8


def run(run: run_lib.Run) -> None:
    """Writes a Scored for each example of the iteration."""
    folder = run.folder("score")
    folder.begin()
    drafts, feedback = run.folder("draft").read(Draft), run.folder("feedback").read(Feedback)
    candidates = run.folder("refine").read(Candidates)
    method = run.config.score.method
    if method == "instruct_rm":
        score = _InstructRM(run, drafts, feedback, candidates)
    elif method == "embedding":
        score = _Embedding(run, feedback, candidates)
    else:
        score = _Baseline(run, method, candidates)

    def work(batch: list[Example]) -> list[Scored]:
        return [_select(run, e, candidates[e.id], scores, parts)
                for e, (scores, parts) in zip(batch, score(batch), strict=True)]

    lengths = [len(e.document) for e in run.examples]
    done = run_lib.process_shards(run, "score", run.examples, lengths, _SHARD_DOCUMENTS, Scored, work)
    metrics = run.summarise("score", _numbers(run, done.records, candidates, drafts, feedback))
    folder.finish(shards=done.shards, count=len(done.records), seconds=done.seconds, metrics=metrics)


class _InstructRM:
    def __init__(self, run: run_lib.Run, drafts: dict, feedback: dict, candidates: dict) -> None:
        self._run, self._drafts, self._feedback, self._candidates = run, drafts, feedback, candidates
        self._judge = run.roles.get("judge")
        self._warned = False

    def __call__(self, batch: list[Example]) -> list[tuple[np.ndarray, list[list[float]]]]:
        groups, counts = [], []
        for example in batch:
            draft, feedback = self._drafts[example.id].text, self._feedback[example.id].text
            questions = [self._run.task.judge_questions(example, draft, feedback, text)
                         for text in self._candidates[example.id].texts]
            by_prompt = list(zip(*questions, strict=True))
            groups += [judge_lib.make_group(self._judge, example.id, same) for same in by_prompt]
            counts.append(len(by_prompt))
        if not self._warned and not all(group.exact for group in groups):
            progress.log("judge: an answer is more than one token here; it is scored by its first distinguishing one")
            self._warned = True
        found = iter(judge_lib.favourable_probabilities(self._judge, groups, self._run.config.score.batch_size))
        results = []
        for count in counts:
            per_prompt_CxP = np.stack([next(found) for _ in range(count)], axis=1)
            results.append((instruct_rm.ensemble(per_prompt_CxP), per_prompt_CxP.tolist()))
        return results


class _Embedding:
    def __init__(self, run: run_lib.Run, feedback: dict, candidates: dict) -> None:
        self._run, self._feedback, self._candidates = run, feedback, candidates
        self._embedder = run.roles.get("embedder")

    def __call__(self, batch: list[Example]) -> list[tuple[np.ndarray, list[list[float]]]]:
        texts = [[self._feedback[e.id].text, *self._candidates[e.id].texts] for e in batch]
        flat = self._embedder.embed([t for group in texts for t in group], self._run.config.score.batch_size)
        results, at = [], 0
        for group in texts:
            vectors = flat[at : at + len(group)]
            at += len(group)
            results.append((embedding.cosine(vectors[0], vectors[1:]), []))
        return results


class _Baseline:
    def __init__(self, run: run_lib.Run, method: str, candidates: dict) -> None:
        self._run, self._method, self._candidates = run, method, candidates

    def __call__(self, batch: list[Example]) -> list[tuple[np.ndarray, list[list[float]]]]:
        return [(baseline_scores(self._run, e, self._candidates[e.id])[self._method], []) for e in batch]


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
    picks = {name: pick(s) for name, s in baseline_scores(run, example, candidates).items()}
    return Scored(example.id, [float(s) for s in scores], pick(scores), picks, parts)


def _numbers(
    run: run_lib.Run, scored: dict[str, Scored], candidates: dict[str, Candidates], drafts: dict[str, Draft],
    feedback: dict[str, Feedback],
) -> list[statistics.Metric]:
    rows = [scored[e.id] for e in run.examples]
    numbers = [statistics.mean("score_chosen", [row.scores[row.chosen] for row in rows]),
               statistics.mean("score_mean", [float(np.mean(row.scores)) for row in rows])]
    if run.task.has_oracle:
        right = {e.id: run.task.oracle_refinement(e, drafts[e.id].text, feedback[e.id].text) for e in run.examples}
        hits = lambda pick: [candidates[row.id].texts[pick(row)] == right[row.id] for row in rows]  # noqa: E731
        numbers.append(statistics.proportion("exact_match_chosen", hits(lambda row: row.chosen)))
        for name in ("random", "longest", "first"):
            numbers.append(statistics.proportion(f"exact_match_{name}", hits(lambda row, name=name: row.picks[name])))
    return numbers
