"""Reviews in files, in both directions: JSON Lines and CSV, a line for each review, every error with its line."""

import collections
import csv
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ilf_jax.data import formats
from ilf_jax.errors import InputError, shown
from ilf_jax.review import entries
from ilf_jax.review.database import check_name
from ilf_jax.review.entries import SUBMITTED, Entry
from ilf_jax.review.store import Item, Review, Store

BY_HAND = "file"
"""The reviewer of what a file says without naming one."""
COLUMNS = ("round", "id", "reviewer", "status", "feedback", "important", "class", "rating", "human_refinement",
           "taken_over", "spans", "better", "criteria", "seconds", "draft")
# Column of a file -> field of an Entry.
_FIELDS = {"feedback": "feedback", "important": "important", "class": "category", "rating": "rating",
           "human_refinement": "refinement", "taken_over": "taken_over", "spans": "spans", "better": "better",
           "criteria": "criteria"}
_OR_NAME_IT = ", or name its encoding: --encoding=cp1252, for example"


def read_rows(path: pathlib.Path, encoding: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of a file in any format of `data.formats`, by its name; of another name, in JSON Lines.

    Args:
        encoding: Python's name of it; "": UTF-8, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, is in another encoding, or a line is damaged.
    """
    try:
        " ".encode(encoding or "utf-8")
    except (LookupError, UnicodeError) as e:
        raise InputError(f"--encoding={encoding}: is not known; utf-8, utf-16, cp1252 and latin-1 are some") from e
    kind = formats.of_name(path.name) or "jsonl"
    for row in formats.read(kind, path, str(path), encoding, _OR_NAME_IT):
        if isinstance(row.value, InputError):
            raise row.value
        if not isinstance(row.value, dict):
            raise InputError(f"{row.where}: expected a JSON object, not a {type(row.value).__name__}")
        try:
            json.dumps(row.value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as e:
            raise InputError(f"{row.where}: a text has half a surrogate pair, which UTF-8 cannot encode") from e
        yield row.where, row.value


def entry_of(where: str, row: Mapping[str, Any], store: Store, item: Item) -> tuple[Entry, str, str, float]:
    """(Entry, status, reviewer, seconds) that a row of a file says of an item.

    Raises:
        InputError: a field is not as it should be.
    """
    values = {field: row[column] for column, field in _FIELDS.items() if row.get(column) not in (None, "")}
    for name in ("spans", "criteria"):  # in a cell of CSV they are JSON
        if isinstance(values.get(name), str):
            try:
                values[name] = json.loads(values[name])
            except ValueError as e:
                raise InputError(f"{where}: {name} is not JSON: {e}") from e
    try:
        if isinstance(values.get("rating"), str):
            values["rating"] = int(values["rating"])
        entry = entries.read(values, store.form, item.draft)
        reviewer = check_name(str(row.get("reviewer") or BY_HAND))
        seconds = float(row.get("seconds") or 0)
        if not 0 <= seconds < 1e9:
            raise ValueError("seconds is a number from 0")
    except (ValueError, TypeError) as e:
        raise InputError(f"{where}: {e}") from e
    status = row.get("status") or ("" if entry.empty else SUBMITTED)
    if status and status not in entries.STATUSES:
        raise InputError(f"{where}: status is {shown(str(status))}; allowed are {', '.join(entries.STATUSES)}, or "
                         "nothing")
    if status == SUBMITTED:
        wrong = entries.problem_of_submission(entry, item.draft, item.is_pair)
        if wrong:
            raise InputError(f"{where}: cannot be submitted: {wrong}")
    return entry, status, reviewer, seconds


def import_reviews(store: Store, rows: Sequence[tuple[str, Mapping[str, Any]]], replace: bool,
                   round_: str | None = None) -> int:
    """Puts the reviews of a file in, all or none. Returns how many there are.

    Args:
        replace: reviews that are stored may be replaced; their history is kept.
        round_: what the ids are looked up in; None: the last round.

    Raises:
        InputError: a line is wrong, or would replace what is stored, without `replace`.
    """
    name = (store.rounds() or [""])[-1] if round_ is None else round_
    by_key = {item.key: item for item in store.items(name)}
    found: list[tuple[str, Item, Entry, str, str, float]] = []
    seen: set[tuple[int, str]] = set()
    for where, row in rows:
        item = by_key.get(str(row.get("id")))
        if item is None:
            raise InputError(f"{where}: there is no item with the id {shown(str(row.get('id')))}")
        if "draft" in row and row["draft"] != item.draft:
            raise InputError(f"{where}: is about another draft than the item {shown(item.key)} has")
        entry, status, reviewer, seconds = entry_of(where, row, store, item)
        if (item.id, reviewer) in seen:
            raise InputError(f"{where}: the item {shown(item.key)} appears twice for {shown(reviewer)}")
        seen.add((item.id, reviewer))
        if status:
            found.append((where, item, entry, status, reviewer, seconds))
    with store.change():
        for where, item, entry, status, reviewer, seconds in found:
            if not store.put(item, reviewer, entry, status, seconds, replace):
                raise InputError(f"{where}: {shown(reviewer)} has reviewed {shown(item.key)} already; --replace "
                                 "puts the file's in its place")
    return len(found)


def review_rows(store: Store) -> list[dict[str, Any]]:
    """A row for each review, with the columns of `COLUMNS`."""
    items = {item.id: item for item in store.items()}
    return [_row(items[review.item], review) for review in store.reviews() if review.status != entries.PENDING]


def _row(item: Item, review: Review) -> dict[str, Any]:
    said = {column: review.entry.to_json().get(field, "") for column, field in _FIELDS.items()}
    return {"round": item.round, "id": item.key, "reviewer": review.reviewer, "status": review.status, **said,
            "spans": said["spans"] or [], "criteria": said["criteria"] or {}, "seconds": round(review.seconds, 1),
            "draft": item.draft}


def to_json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; what is no text is JSON in its cell."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value else ""
                         for value in (row[column] for column in COLUMNS)])
    return out.getvalue()


def outcome(item: Item, reviews: Sequence[Review], decided: int | None, overlap: int) -> tuple[str, Review | None]:
    """What an item has come to: its status, see `entries.status_of`, and the review that counts, once it is submitted.

    Of several submitted reviews the first counts, unless another was chosen.
    """
    counts = collections.Counter(r.status for r in reviews)
    status = entries.status_of(counts, overlap, decided is not None)
    if status != SUBMITTED:
        return status, None
    submitted = sorted((r for r in reviews if r.status == SUBMITTED), key=lambda r: (r.submitted or 0.0, r.id))
    return SUBMITTED, next((r for r in submitted if r.id == decided), submitted[0])


def outcome_row(item: Item, reviews: Sequence[Review], decided: int | None, overlap: int) -> dict[str, Any]:
    """A line of reviews.jsonl: the outcome of an item, with all its reviews in short for the report."""
    status, counts = outcome(item, reviews, decided, overlap)
    entry = counts.entry if counts is not None else Entry()
    return {
        "id": item.key, "draft": item.draft, "status": status,
        "feedback": entries.compose(entry, item.draft) if counts is not None else "",
        "words": entry.feedback, "important": entry.important, "class": entry.category, "rating": entry.rating,
        "human_refinement": entry.refinement, "refinement_by": entry.refinement_by,
        "spans": entry.to_json().get("spans", []),
        "reviewer": counts.reviewer if counts is not None else "",
        "reviews": [{"reviewer": r.reviewer, "status": r.status, "class": r.entry.category, "rating": r.entry.rating,
                     "seconds": round(r.seconds, 1)} for r in reviews if r.status != entries.PENDING],
    }
