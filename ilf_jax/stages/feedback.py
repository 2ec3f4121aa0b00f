"""Feedback: f on (c, x0), from any of the sources in `ilf_jax.feedback`, or from the user's own."""

import functools

from ilf_jax import feedback as sources
from ilf_jax.feedback.source import DraftedDocument, SourceContext
from ilf_jax.records import Draft, Example, Feedback
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.workdir import StageFolder
from ilf_jax.stages.context import Outcome, Records, StageContext, process_shards, run_stage


def give_feedback(context: StageContext, drafts: Records[Draft]) -> Records[Feedback]:
    """A Feedback for each document of the iteration."""
    return run_stage(context, "feedback", Feedback, functools.partial(_give_feedback, context, drafts))


def _give_feedback(context: StageContext, drafts: Records[Draft], folder: StageFolder) -> Outcome:
    drafts_by_id, examples = drafts.by_id(), context.examples
    documents = {e.id: DraftedDocument(e, drafts_by_id[e.id].text) for e in examples}
    source = sources.make_source(SourceContext(
        context.config, context.task, context.roles, context.iteration, folder.path, tuple(documents.values())))
    if not source.sharded:
        folder.write_shard(0, 1, source.start(list(documents.values())).result())
        return Outcome(shards=1, count=len(examples))

    def start(batch: list[Example]) -> Pending[list[Feedback]]:
        return source.start([documents[e.id] for e in batch])

    done = process_shards(
        context, folder, examples, [source.length(document) for document in documents.values()],
        shard_size=context.config.feedback.batch_size, cls=Feedback, start=start, work=source.work)
    return Outcome(done.shards, len(done.records), work=done.work)
