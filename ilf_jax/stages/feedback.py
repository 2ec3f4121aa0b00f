"""Feedback: f on (c, x0), from any of the sources in `ilf_jax.feedback`, or from the user's own."""

import dataclasses
import functools
from collections.abc import Sequence

from ilf_jax import feedback as sources
from ilf_jax.evaluation import statistics
from ilf_jax.feedback.source import DraftedDocument, SourceContext
from ilf_jax.records import Draft, Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.workdir import StageFolder
from ilf_jax.stages.context import Outcome, Records, StageContext, process_shards, run_stage
from ilf_jax.tasks import answers


def give_feedback(context: StageContext, drafts: Records[Draft]) -> Records[Feedback]:
    """A Feedback for each document of the iteration."""
    return run_stage(context, "feedback", Feedback, functools.partial(_give_feedback, context, drafts))


def _give_feedback(context: StageContext, drafts: Records[Draft], folder: StageFolder) -> Outcome:
    drafts_by_id, examples = drafts.by_id(), context.examples
    documents = {e.id: DraftedDocument(e, drafts_by_id[e.id].text) for e in examples}
    source = sources.make_source(SourceContext(
        context.config, context.task, context.roles, context.iteration, folder.path, tuple(documents.values())))

    def start(batch: Sequence[Example]) -> Pending[list[Feedback]]:
        return source.start([documents[e.id] for e in batch]).map(
            lambda rows: [dataclasses.replace(row, text=answers.clean(row.text)) for row in rows])

    if not source.sharded:
        given = start(examples).result()
        folder.write_shard(0, 1, given)
        ids = {row.id for row in given}
        metrics = [] if source.complete else [
            statistics.mean("left_out_rate", [e.id not in ids for e in examples])]
        return Outcome(shards=1, count=len(given), metrics=metrics)

    done = process_shards(
        context, folder, examples, [source.length(document) for document in documents.values()],
        shard_size=context.config.feedback.batch_size, cls=Feedback, start=start, work=source.work)
    rows = done.records.values()
    by_model = any(row.source == "critic" for row in rows)
    metrics = [statistics.mean("echo_rate", [row.redrawn for row in rows])] if by_model else []
    return Outcome(done.shards, len(rows), metrics, done.work)
