"""Feedback: f on (c, x0), from any of the sources in `ilf_jax.feedback`, or from the user's own."""

import dataclasses
import functools
from collections.abc import Sequence

from ilf_jax import feedback as sources
from ilf_jax.evaluation import statistics
from ilf_jax.feedback import control
from ilf_jax.feedback.source import DraftedDocument, SourceContext
from ilf_jax.models import padding
from ilf_jax.records import Draft, Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.stages.context import Outcome, Records, StageContext, process_shards, run_stage, same_records, written_with
from ilf_jax.tasks import answers


def give_feedback(context: StageContext, drafts: Records[Draft]) -> Records[Feedback]:
    """A Feedback for each document of the iteration."""
    return run_stage(context, "feedback", Feedback, functools.partial(_give_feedback, context, drafts))


def _give_feedback(context: StageContext, drafts: Records[Draft], folder: StageFolder) -> Outcome:
    drafts_by_id, examples, settings = drafts.by_id(), context.examples, context.config.feedback
    documents = {e.id: DraftedDocument(e, drafts_by_id[e.id].text) for e in examples}
    givers = {e.id: e.id for e in examples}
    if settings.control == "shuffled":
        givers = control.shuffled(list(documents), context.config.seed, context.iteration)
        already_given = _already_given(context)
        if already_given is not None:
            exchanged = control.exchanged({e.id: givers[e.id] for e in examples}, already_given.by_id())
            folder.write_shard(0, 1, exchanged)
            return Outcome(shards=1, count=len(exchanged))
    of_source = SourceContext(
        context.config, context.task, context.roles, context.iteration, folder.path, tuple(documents.values()))
    source = control.replaced(settings.control, of_source) or sources.make_source(of_source)

    def start(batch: Sequence[Example]) -> Pending[list[Feedback]]:
        def hand_out(rows: list[Feedback]) -> list[Feedback]:
            by_giver = {row.id: dataclasses.replace(
                row, text=answers.clean(row.text), refinement=answers.clean(row.refinement)) for row in rows}
            return control.exchanged({e.id: givers[e.id] for e in batch}, by_giver)

        return source.start([documents[givers[e.id]] for e in batch]).map(hand_out)

    if not source.sharded:
        given = start(examples).result()
        folder.write_shard(0, 1, given)
        ids = {row.id for row in given}
        metrics = [] if source.complete else [
            statistics.mean("left_out_rate", [e.id not in ids for e in examples])]
        return Outcome(shards=1, count=len(given), metrics=metrics)

    done = process_shards(
        context, folder, examples, [source.length(documents[givers[e.id]]) for e in examples],
        shard_size=padding.batch_size(settings.batch_size, len(examples)), cls=Feedback, start=start,
        work=lambda row: source.work(dataclasses.replace(row, id=givers[row.id])))
    rows = done.records.values()
    by_model = any(row.source == "critic" for row in rows)
    metrics = [statistics.mean("echo_rate", [row.redrawn for row in rows])] if by_model else []
    return Outcome(done.shards, len(rows), [*metrics, *source.metrics()], done.work)


def _already_given(context: StageContext) -> Records[Feedback] | None:
    """The feedback itself, where the run or a baseline has asked for it on the same drafts: people and services are not
    asked again. None where nobody has."""
    config = context.config
    without = dataclasses.replace(
        context, config=dataclasses.replace(config, feedback=dataclasses.replace(config.feedback, control="")))
    return written_with(without, "feedback", Feedback) if same_records(context, without, "draft") else None
