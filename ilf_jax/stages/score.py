"""Score and select: R(x1 | x0, f, c) for every candidate, and the best of N. The baselines' picks are recorded too.

A refinement that a reviewer gave beside the feedback overrules the scorer: it is what the document teaches. Scores and
picks are recorded nevertheless, so that what is measured of the scorer remains about the scorer.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from ilf_jax import scoring
from ilf_jax.errors import InputError
from ilf_jax.evaluation import statistics, win_rate
from ilf_jax.inference import preferences
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.scoring import baselines, selection
from ilf_jax.scoring.scorer import RefinedDocument, ScorerContext, Scores
from ilf_jax.stages.context import Outcome, Records, StageContext, judged, process_shards, run_stage

# Documents whose scores make one shard, rounded up to whole batches.
_SHARD_DOCUMENTS = 8
_BASELINES = ("random", "longest", "first")


def score(
    context: StageContext, drafts: Records[Draft], feedback: Records[Feedback], candidates: Records[Candidates]
) -> Records[Scored]:
    """A Scored for each document of the iteration.

    Args:
        drafts, feedback, candidates: what the stages before wrote for these documents.
    """
    return run_stage(context, "score", Scored, functools.partial(_score, context, drafts, feedback, candidates))


def _score(
    context: StageContext, drafts: Records[Draft], feedback: Records[Feedback], candidates: Records[Candidates],
    folder: StageFolder,
) -> Outcome:
    draft_texts = {i: row.text for i, row in drafts.by_id().items()}
    given = feedback.by_id()
    feedback_texts = {i: row.text for i, row in given.items()}
    overruled_by = {i: row.refinement_by for i, row in given.items()} if _refined(context) else {}
    candidates_by_id = candidates.by_id()
    # The policy's fresh drafts are about no draft and no feedback.
    documents = {e.id: RefinedDocument(e, draft_texts.get(e.id, ""), feedback_texts.get(e.id, ""),
                                       tuple(candidates_by_id[e.id].texts)) for e in context.examples}
    asked = {i: dataclasses.replace(d, candidates=(*d.candidates, d.draft))
             if context.config.score.draft and i in draft_texts else d
             for i, d in documents.items()}
    scorer = scoring.make_scorer(ScorerContext(
        context.config, context.task, context.roles, context.iteration, tuple(asked.values())))
    work: dict[str, performance.Work] = {}

    def start(batch: list[Example]) -> Pending[list[Scored]]:
        def select(scores: list[Scores]) -> list[Scored]:
            work.update((e.id, of_document.work) for e, of_document in zip(batch, scores, strict=True))
            return [_select(context, documents[e.id], of_document, overruled_by.get(e.id, ""))
                    for e, of_document in zip(batch, scores, strict=True)]

        return scorer.start([asked[e.id] for e in batch]).map(select)

    batch_size = context.config.score.batch_size
    done = process_shards(
        context, folder, context.examples, [len(e.document) for e in context.examples],
        shard_size=-(-_SHARD_DOCUMENTS // batch_size) * batch_size, cls=Scored, start=start,
        work=lambda scored: work[scored.id])
    metrics = [*_metrics(context, done.records, documents), *scorer.metrics(done.records)]
    return Outcome(done.shards, len(done.records), metrics, done.work)


def _refined(context: StageContext) -> bool:
    """Whether the candidates are refinements: the policy's fresh drafts are about no feedback."""
    return context.config.refine.source == "refiner"


def _usable(context: StageContext, document: RefinedDocument) -> list[bool]:
    return [context.task.is_usable(document.example, text) for text in document.candidates]


def _select(context: StageContext, document: RefinedDocument, scores: Scores, overruled_by: str) -> Scored:
    usable, N = _usable(context, document), len(document.candidates)
    of_baselines = baselines.baseline_scores(
        context.config.seed, context.iteration, document.example.id, document.candidates)
    of_candidates = scores.of_candidates[:N]
    return Scored(
        document.example.id, [float(s) for s in of_candidates], selection.pick(of_candidates, usable),
        {name: selection.pick(s, usable) for name, s in of_baselines.items()}, scores.of_prompts[:N],
        float(scores.of_candidates[N]) if len(scores.of_candidates) > N else None, overruled_by,
        scores.stderrs[:N])


def _metrics(
    context: StageContext, scored: Mapping[str, Scored], documents: Mapping[str, RefinedDocument]
) -> list[statistics.Metric]:
    """Scores, and where they can be measured: exact matches, feedback taken in, win rates against the draft."""
    rows = [scored[e.id] for e in context.examples if judged(context.config, scored[e.id])]
    if not rows:
        raise InputError(f"iteration {context.iteration}: no draft, feedback and refinements leave room in the judge's "
                         "prompt")
    examples = [e for e in context.examples if judged(context.config, scored[e.id])]
    picks = {"chosen": [row.chosen for row in rows], **{name: [row.picks[name] for row in rows] for name in _BASELINES}}
    texts = {name: {row.id: documents[row.id].candidates[index] for row, index in zip(rows, of_name, strict=True)}
             for name, of_name in picks.items()}
    metrics = [statistics.mean("score_chosen", [row.scores[row.chosen] for row in rows]),
               statistics.mean("score_mean", [float(np.mean(row.scores)) for row in rows])]
    of_drafts = [row.draft_score for row in rows if row.draft_score is not None]
    if of_drafts:
        metrics.append(statistics.mean("score_draft", of_drafts))
    overruled = [bool(scored[e.id].overruled_by) for e in context.examples]
    if any(overruled):
        metrics.append(statistics.proportion("overruled_rate", overruled))
    if _refined(context) and context.task.has_oracle:
        metrics += _oracle_metrics(context, examples, documents, texts)
    elif _refined(context) and context.config.score.method == "instruct_rm":
        metrics += [statistics.proportion(f"feedback_incorporated_{name}",
                                          [row.scores[index] > 0.5 for row, index in zip(rows, of_name, strict=True)])
                    for name, of_name in picks.items()]
    if context.config.score.win_rate:
        metrics += _win_rates(context, examples, rows, documents, texts)
    return metrics


def _oracle_metrics(
    context: StageContext, examples: Sequence[Example], documents: Mapping[str, RefinedDocument],
    texts: Mapping[str, Mapping[str, str]],
) -> list[statistics.Metric]:
    """Share of picked texts that are exactly right, and that take in the feedback."""
    task, metrics = context.task, []
    given = [(e, documents[e.id].draft, documents[e.id].feedback) for e in examples]
    for name, picked in texts.items():
        right = [picked[e.id] == task.oracle_refinement(e, draft, feedback) for e, draft, feedback in given]
        incorporated = [task.oracle_incorporates(e, draft, feedback, picked[e.id]) for e, draft, feedback in given]
        metrics += [statistics.proportion(f"exact_match_{name}", right),
                    statistics.proportion(f"feedback_incorporated_{name}", incorporated)]
    return metrics


def _win_rates(
    context: StageContext, examples: Sequence[Example], rows: Sequence[Scored],
    documents: Mapping[str, RefinedDocument],
    texts: Mapping[str, dict[str, str]],
) -> list[statistics.Metric]:
    """Win rates against the drafts, by the judge: of the picked refinements, people's, and each single prompt's picks.

    Args:
        examples: those that were judged.
        rows: in their order.
        texts: way of picking -> picked text by example id.
    """
    systems = dict(texts)
    for i in range(len(rows[0].prompt_scores[0]) if rows[0].prompt_scores else 0):
        by_prompt = {row.id: np.array([prompts[i] for prompts in row.prompt_scores]) for row in rows}
        systems[f"prompt_{i + 1}"] = {
            j: documents[j].candidates[selection.pick(scores, _usable(context, documents[j]))]
            for j, scores in by_prompt.items()}
    human = {e.id: e.human_refinement for e in examples}
    if all(human.values()):
        systems["human_refinement"] = human
    judge, drafts = context.roles.judge(), {i: document.draft for i, document in documents.items()}
    batch_size = context.config.score.batch_size
    return [
        win_rate.win_rate(
            *preferences.both_orders(judge, context.task, examples, ours, drafts, batch_size),
            name=f"win_rate_{name}")
        for name, ours in systems.items()]
