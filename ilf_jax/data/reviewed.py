"""What people said of an iteration's drafts: two files that they, or the reviewing page, fill in.

`to_review.jsonl` is written by the run, a line for each draft, and may be filled in by hand: the field `feedback`, or
`"status": "skipped"`. `reviews.jsonl` is written by the reviewing page, which appends a line whenever an item is
submitted, skipped or opened again; of several lines about an item the last one counts, before the first file.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sized
from typing import Any

from ilf_jax.errors import InputError, shown
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json_lines, write_atomically
from ilf_jax.runtime.json_text import parse_line
from ilf_jax.tasks import answers

FILE = "to_review.jsonl"
REVIEWS = "reviews.jsonl"
SKIPPED, WAITING = "skipped", "waiting"
"""Of an item without feedback: it will have none, or it may yet have some."""
_LINE = "a line is an object with the texts id, draft and feedback"
_REVIEW = "the reviewing page writes it: start it again, or delete the file if you do without the page"


@dataclasses.dataclass(frozen=True)
class Reviewed:
    """What was said of a draft: its feedback, or, where that is blank, whether the item was skipped or waits."""

    feedback: str = ""
    status: str = WAITING


def read(folder: storage.Path, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """id -> {feedback, status} for each draft, from both files; the first is written if it does not exist.

    Args:
        folder: of the feedback stage.
        wanted: id -> the line to be filled in: id, document, draft.

    Raises:
        InputError: a file is damaged, or is not about these drafts.
    """
    path = folder / FILE
    if not path.exists():
        rows = ({**row, "feedback": ""} for row in wanted.values())
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    found = {**by_hand(path, wanted), **from_page(folder / REVIEWS, wanted)}
    return {i: dataclasses.asdict(found[i]) for i in wanted}


def by_hand(path: storage.Path, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Reviewed]:
    """to_review.jsonl as it is now. Raises InputError, see `read`."""
    found: dict[str, Reviewed] = {}
    for number, row in read_json_lines(path, _LINE):
        where = f"{path}:{number}"
        if not all(isinstance(row.get(k), str) for k in ("id", "draft", "feedback")):
            raise InputError(f"{where}: {_LINE}")
        if row["id"] not in wanted or row["draft"] != wanted[row["id"]]["draft"]:
            raise InputError(f"{where}: is not about a draft of this iteration (id {shown(row['id'])}); only the "
                             "fields \"feedback\" and \"status\" may be changed")
        if row["id"] in found:
            raise InputError(f"{where}: id {shown(row['id'])} appears twice")
        if row.get("status", "") not in ("", SKIPPED):
            raise InputError(f"{where}: status is {shown(str(row['status']))}; allowed is {SKIPPED!r}, or nothing")
        skipped = row.get("status") == SKIPPED
        if skipped and answers.clean(row["feedback"]):
            raise InputError(f"{where}: has feedback and is {SKIPPED}, too; take one of them away")
        found[row["id"]] = Reviewed(row["feedback"], SKIPPED if skipped else WAITING)
    missing = [i for i in wanted if i not in found]
    if missing:
        raise InputError(f"{path}: the lines of {len(missing)} drafts are missing, the first is {shown(missing[0])}; "
                         "put them back, or delete the file to have it written again")
    return found


def from_page(path: storage.Path, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Reviewed]:
    """What the page's file says, of the items that it is about. Raises InputError, see `read`."""
    found: dict[str, Reviewed] = {}
    for where, row in page_rows(path):
        i, feedback, status = row.get("id"), row.get("feedback"), row.get("status")
        if not (isinstance(i, str) and isinstance(feedback, str) and isinstance(status, str)):
            raise InputError(f"{where}: a line is an object with the texts id, draft, feedback and status; {_REVIEW}")
        if i not in wanted or row.get("draft") != wanted[i]["draft"]:
            raise InputError(f"{where}: is not about a draft of this iteration (id {shown(i)}); {_REVIEW}")
        found[i] = Reviewed(feedback if status == "submitted" else "", SKIPPED if status == SKIPPED else WAITING)
    return found


def page_rows(path: storage.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of the page's file; of its last line a killed page may have written a part, which is left out.

    Raises:
        InputError: another line is damaged.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines[:-1], start=1):
        where = f"{path}:{number}"
        try:
            row = parse_line(line, first=number == 1, all_texts=True)
        except ValueError as e:
            raise InputError(f"{where}: is {e}; {_REVIEW}") from e
        if not isinstance(row, dict):
            raise InputError(f"{where}: is no JSON object; {_REVIEW}")
        yield where, row


def needed(min_reviewed: float, total: int, skipped: Sized) -> int:
    """How many drafts must have feedback before the run goes on: config.feedback.min_reviewed of what is not skipped.

    Raises:
        InputError: it asks for more than there are.
    """
    left = total - len(skipped)
    if min_reviewed <= 1:
        return max(1, math.ceil(min_reviewed * left - 1e-9))
    if min_reviewed > total:
        raise InputError(f"config.feedback.min_reviewed: {min_reviewed:g} given, but the iteration has only {total} "
                         "documents; give at most that, or a share of at most 1")
    return min(math.ceil(min_reviewed), max(1, left))
