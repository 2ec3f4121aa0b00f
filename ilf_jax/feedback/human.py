"""Feedback that people write while the run waits: a file of the drafts, one line each."""

import json
from collections.abc import Sequence
from typing import Any

from ilf_jax.errors import InputError, shown
from ilf_jax.feedback.source import DraftedDocument, FeedbackSource
from ilf_jax.records import Feedback
from ilf_jax.runtime import distributed, storage
from ilf_jax.runtime.files import read_json_lines, write_atomically
from ilf_jax.runtime.pending import Pending
from ilf_jax.tasks import answers

FILE = "to_review.jsonl"
_LINE = "a line is an object with the texts id, draft and feedback"


class Human(FeedbackSource):
    """The field `feedback` of each line of to_review.jsonl, a file that is written if it does not exist."""

    def start(self, documents: Sequence[DraftedDocument]) -> Pending[list[Feedback]]:
        """Ready at once.

        Raises:
            InputError: the file was just written, lines still wait for feedback, or it is not about these drafts.
        """
        path = self.context.folder / FILE
        wanted = {d.example.id: {"id": d.example.id, "document": d.example.document, "draft": d.draft}
                  for d in documents}
        feedback = distributed.on_main(lambda: _read(path, wanted))
        waiting = [i for i in wanted if not answers.clean(feedback[i])]
        if waiting:
            raise InputError(f"{path}: {len(waiting)} of {len(wanted)} drafts wait for feedback, the first is "
                             f"{shown(waiting[0])}; write it into the field \"feedback\" of each line, then start "
                             "the same command again")
        return Pending.ready([Feedback(i, feedback[i], "human") for i in wanted])


def _read(path: storage.Path, wanted: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Feedback by id, "" where there is none yet."""
    if not path.exists():
        rows = ({**row, "feedback": ""} for row in wanted.values())
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    feedback: dict[str, str] = {}
    for number, row in read_json_lines(path, _LINE):
        where = f"{path}:{number}"
        if not all(isinstance(row.get(k), str) for k in ("id", "draft", "feedback")):
            raise InputError(f"{where}: {_LINE}")
        if row["id"] not in wanted or row["draft"] != wanted[row["id"]]["draft"]:
            raise InputError(f"{where}: is not about a draft of this iteration (id {shown(row['id'])}); only the field "
                             "\"feedback\" may be changed")
        if row["id"] in feedback:
            raise InputError(f"{where}: id {shown(row['id'])} appears twice")
        feedback[row["id"]] = row["feedback"]
    missing = [i for i in wanted if i not in feedback]
    if missing:
        raise InputError(f"{path}: the lines of {len(missing)} drafts are missing, the first is {shown(missing[0])}; "
                         "put them back, or delete the file to have it written again")
    return feedback
