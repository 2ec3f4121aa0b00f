"""Feedback that people write while the run waits: into a file of the drafts, a line each."""

import json
from collections.abc import Sequence
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.records import Draft, Example, Feedback
from ilf_jax.runtime import distributed, storage
from ilf_jax.runtime.files import read_json_lines, write_atomically

FILE = "to_review.jsonl"
_LINE = "a line is an object with the texts id, draft and feedback"


def give(folder: storage.Path, examples: Sequence[Example], drafts: Sequence[Draft]) -> list[Feedback]:
    """What stands in the field `feedback` of each line of `folder`/to_review.jsonl, which is made if it is not there.

    Raises:
        InputError: the file was just made, lines still wait for feedback, or it is not about these drafts.
    """
    path = folder / FILE
    wanted = {e.id: {"id": e.id, "document": e.document, "draft": d.text}
              for e, d in zip(examples, drafts, strict=True)}
    written = distributed.on_main(lambda: _read(path, wanted))
    waiting = [i for i in wanted if not written[i].strip()]
    if waiting:
        raise InputError(f"{path}: {len(waiting)} of {len(wanted)} drafts wait for feedback, the first is "
                         f"{waiting[0]!r}; write it into the field \"feedback\" of each line, then start the same "
                         "command again")
    return [Feedback(i, written[i].strip(), "human") for i in wanted]


def _read(path: storage.Path, wanted: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Feedback by id, "" where there is none yet."""
    if not path.exists():
        rows = ({**row, "feedback": ""} for row in wanted.values())
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    found: dict[str, str] = {}
    for number, row in read_json_lines(path, _LINE):
        where = f"{path}:{number}"
        if not all(isinstance(row.get(k), str) for k in ("id", "draft", "feedback")):
            raise InputError(f"{where}: {_LINE}")
        if row["id"] not in wanted or row["draft"] != wanted[row["id"]]["draft"]:
            raise InputError(f"{where}: is not about a draft of this iteration (id {row['id']!r}); only the field "
                             "\"feedback\" may be changed")
        if row["id"] in found:
            raise InputError(f"{where}: id {row['id']!r} stands there twice")
        found[row["id"]] = row["feedback"]
    missing = [i for i in wanted if i not in found]
    if missing:
        raise InputError(f"{path}: the lines of {len(missing)} drafts are gone, the first is {missing[0]!r}; put them "
                         "back, or delete the file to have it made anew")
    return found
