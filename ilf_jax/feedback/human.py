"""Feedback that people write while the run waits, on the reviewing page or in a file; see `data/reviewed`."""

from collections.abc import Sequence

from ilf_jax.data import reviewed
from ilf_jax.errors import InputError, WaitingError, shown
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource
from ilf_jax.records import Feedback
from ilf_jax.runtime import distributed, progress
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks import answers

FILE = reviewed.FILE


class Human(FeedbackSource):
    """Feedback from people. Documents that they skipped, or that none had reviewed in time, get none."""

    complete = False

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Ready at once.

        Raises:
            WaitingError: fewer drafts have feedback than config.feedback.min_reviewed.
            InputError: a file is damaged or not about these drafts, or every document was skipped.
        """
        folder = self.context.folder
        wanted = {d.example.id: {"id": d.example.id, "title": d.example.title, "document": d.example.document,
                                 "draft": d.draft} for d in documents}
        found = distributed.on_main(lambda: reviewed.read(folder, wanted))
        done = [i for i in wanted if answers.clean(found[i]["feedback"])]
        skipped = [i for i in wanted if i not in done and found[i]["status"] == reviewed.SKIPPED]
        waiting = [i for i in wanted if i not in done and i not in skipped]
        if len(skipped) == len(wanted):
            raise InputError(f"{folder / FILE}: all {len(wanted)} documents were skipped; write feedback on one at "
                             "least, or take other documents")
        needed = reviewed.needed(self.context.config.feedback.min_reviewed, len(wanted), skipped)
        if len(done) < needed:
            page = f"ilf-jax review --workdir={reviewed.run_of(folder.parent.parent)}"
            raise WaitingError(
                f"{folder / FILE}: {len(waiting)} of {len(wanted)} drafts wait for feedback, the first is "
                f"{shown(waiting[0])}; {needed - len(done)} more are needed. Write it on the page of `{page}`, "
                "or into the field \"feedback\" of each line; then start the same command again")
        if skipped or waiting:
            progress.log(f"feedback {self.context.iteration}: {len(skipped)} skipped and {len(waiting)} unreviewed of "
                         f"{len(wanted)} documents are left out of this iteration")
        return Pending.ready([
            Feedback(i, found[i]["feedback"], "human", refinement=found[i]["refinement"],
                     refinement_by=found[i]["refinement_by"]) for i in done])
