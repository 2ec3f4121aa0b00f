"""What people said of an iteration's drafts: two files that they, or the reviewing page, fill in.

`to_review.jsonl` is written by the run, a line for each draft, and may be filled in by hand: the field `feedback`, and
beside it `human_refinement`, or `"status": "skipped"`. `reviews.jsonl` is written by the reviewing page, which appends
a line whenever an item is submitted, skipped or opened again; of several lines about an item the last one counts,
before the first file.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sized
from typing import Any

from ilf_jax.errors import InputError, shown
from ilf_jax.records import REFINEMENT_BY
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json_lines, read_sealed, write_atomically
from ilf_jax.runtime.json_text import parse_line
from ilf_jax.tasks import answers

FILE = "to_review.jsonl"
REVIEWS = "reviews.jsonl"
BASELINES = "baselines"
"""The folder in a run's own that holds those of its baselines; `setting_up.baseline_folder` names them."""
SKIPPED, WAITING = "skipped", "waiting"
"""Of an item without feedback: it will have none, or it may yet have some."""
_ITERATION, _CURE = re.compile(r"iteration_\d+"), "restore it, or take another --workdir"
_LINE = "a line is an object with the texts id, draft and feedback"
_REVIEW = "the reviewing page writes it: start it again, or delete the file if you do without the page"


@dataclasses.dataclass(frozen=True)
class Reviewed:
    """What was said of a draft: its feedback, or, where that is blank, whether the item was skipped or waits.

    `refinement` and `refinement_by`: as of `records.Feedback`.
    """

    feedback: str = ""
    status: str = WAITING
    refinement: str = ""
    refinement_by: str = ""


def waiting(workdir: storage.Path) -> storage.Path | None:
    """The folder of the feedback stage that waits for people, of the latest iteration that does; None: none waits.

    Raises:
        InputError: a manifest is damaged.
    """
    found = [path for path in workdir.iterdir() if _ITERATION.fullmatch(path.name) and _waits(path / "feedback")]
    return max(found, key=lambda path: path.name) / "feedback" if found else None


def waiting_baselines(workdir: storage.Path) -> list[storage.Path]:
    """The work folders of a run's baselines that wait for feedback on drafts of their own."""
    folder = workdir / BASELINES
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and waiting(path) is not None]
    return sorted(found, key=lambda path: path.name)


def run_of(workdir: storage.Path) -> storage.Path:
    """The work folder of the run that a baseline's work folder belongs to; any other is its own."""
    above = workdir.parent.parent
    return above if workdir.parent.name == BASELINES and (above / "config.json").exists() else workdir


def _waits(folder: storage.Path) -> bool:
    if not (folder / FILE).exists():
        return False
    manifest = folder / "manifest.json"
    return not (manifest.exists() and read_sealed(manifest, _CURE).get("complete"))


def read(folder: storage.Path, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """id -> fields of its `Reviewed`, for each draft, from both files; the first is written if it does not exist.

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
        refinement = row.get("human_refinement", "")
        if not all(isinstance(x, str) for x in (row.get("id"), row.get("draft"), row.get("feedback"), refinement)):
            raise InputError(f"{where}: {_LINE}")
        if row["id"] not in wanted or row["draft"] != wanted[row["id"]]["draft"]:
            raise InputError(f"{where}: is not about a draft of this iteration (id {shown(row['id'])}); only the "
                             "fields \"feedback\", \"human_refinement\" and \"status\" may be changed")
        if row["id"] in found:
            raise InputError(f"{where}: id {shown(row['id'])} appears twice")
        if row.get("status", "") not in ("", SKIPPED):
            raise InputError(f"{where}: status is {shown(str(row['status']))}; allowed is {SKIPPED!r}, or nothing")
        skipped = row.get("status") == SKIPPED
        if skipped and answers.clean(row["feedback"]):
            raise InputError(f"{where}: has feedback and is {SKIPPED}, too; take one of them away")
        if answers.clean(refinement) and not answers.clean(row["feedback"]):
            raise InputError(f"{where}: has a human_refinement, but no feedback; say what is wrong with the draft, too")
        found[row["id"]] = Reviewed(row["feedback"], SKIPPED if skipped else WAITING, *_refinement(refinement))
    missing = [i for i in wanted if i not in found]
    if missing:
        raise InputError(f"{path}: the lines of {len(missing)} drafts are missing, the first is {shown(missing[0])}; "
                         "put them back, or delete the file to have it written again")
    return found


def _refinement(text: str, by: str = "reviewer") -> tuple[str, str]:
    text = answers.clean(text)
    return (text, by) if text else ("", "")


def from_page(path: storage.Path, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Reviewed]:
    """What the page's file says, of the items that it is about. Raises InputError, see `read`."""
    found: dict[str, Reviewed] = {}
    for where, row in page_rows(path):
        i, feedback, status = row.get("id"), row.get("feedback"), row.get("status")
        if not (isinstance(i, str) and isinstance(feedback, str) and isinstance(status, str)):
            raise InputError(f"{where}: a line is an object with the texts id, draft, feedback and status; {_REVIEW}")
        if i not in wanted or row.get("draft") != wanted[i]["draft"]:
            raise InputError(f"{where}: is not about a draft of this iteration (id {shown(i)}); {_REVIEW}")
        refinement, by = row.get("human_refinement", ""), row.get("refinement_by") or "reviewer"
        if not isinstance(refinement, str) or by not in REFINEMENT_BY:
            raise InputError(f"{where}: human_refinement is a text, and refinement_by one of "
                             f"{', '.join(map(repr, REFINEMENT_BY))}; {_REVIEW}")
        found[i] = (Reviewed(feedback, WAITING, *_refinement(refinement, by)) if status == "submitted" else
                    Reviewed(status=SKIPPED if status == SKIPPED else WAITING))
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
