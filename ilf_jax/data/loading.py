"""Examples from the user's files: sources by URI, fields by dotted path. Every error names its file and line."""

import collections
import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ilf_jax.data import sources
from ilf_jax.data.field_paths import MISSING, is_null, look_up, to_text
from ilf_jax.data.rows import Row
from ilf_jax.errors import InputError, shown
from ilf_jax.records import Example, Record
from ilf_jax.tasks import answers

T = TypeVar("T", bound=Record)
# Texts that a model writes or learns from: they are trained and measured as generated ones are.
_ANSWERS = ("draft", "feedback", "reference", "human_refinement")
FIELDS = tuple(field.name for field in dataclasses.fields(Example))
COMPARED = ("first", "second", "preferred")
"""Fields of rows that compare two outputs."""
SIDES = ("first", "second")


@dataclasses.dataclass(frozen=True)
class LoadResult:
    """The examples of a source.

    Attributes:
        examples: in the order of the source.
        skipped: number of bad rows, under on_error='skip'.
        left_out: number of good rows left out because a field in skip_empty is blank.
        not_selected: number of rows that config.data.where leaves out.
        first_error: the error of the first skipped row; '' if none was skipped.
    """

    examples: tuple[Example, ...]
    skipped: int
    left_out: int
    first_error: str = ""
    not_selected: int = 0


def load_examples(
    source: str,
    fields: Mapping[str, str],
    *,
    on_error: str = "stop",
    skip_empty: tuple[str, ...] = (),
    folder: str | None = None,
    split: str = "train",
    where: Sequence[str] = (),
    join: str | None = None,
    sides: Sequence[str] = SIDES,
) -> LoadResult:
    """Reads a data set.

    Args:
        source: see `sources.read_rows`.
        fields: field of Example -> dotted path in the rows, such as `feedback.explanation`. A field that is not
            listed is read from the path of its own name, if the row has it. A field mapped to '' is not read. A
            missing id becomes `row-000012`: the line (JSON Lines) or row (others), counted from 1.
        on_error: 'stop' at the first bad row, or 'skip' bad rows and count them.
        skip_empty: leave out examples in which one of these fields is blank.
        folder: see `sources.read_rows`.
        split: see `sources.read_rows`.
        where: conditions 'PATH=VALUE' or 'PATH!=VALUE'; rows that do not meet all of them are left out.
        join: stands between the elements of a list that is read as a text.
        sides: what `preferred` says where the first, or the second, of two outputs is better; read where `fields` maps
            it. The better one becomes human_refinement, the other the draft.

    Raises:
        InputError: the source cannot be read, an argument is not as described, a row is bad (under 'stop'), two
            examples share an id, or no example is left.
    """
    if on_error not in ("stop", "skip"):
        raise InputError(f"config.data.on_error: {on_error!r} given; allowed are 'stop', 'skip'")
    check_names("config.data.fields", fields, (*FIELDS, *COMPARED))
    _check_compared(fields, sides)
    check_names("config.data.skip_empty", skip_empty, FIELDS)
    for field, path in fields.items():
        if not isinstance(path, str):
            raise InputError(f"config.data.fields.{field}: {path!r} given; must be a dotted path, as a string")
    left_out = 0

    def make(row: Row) -> Example | None:
        nonlocal left_out
        example = _to_example(row, fields, join, sides)
        if any(not answers.clean(getattr(example, field)) for field in skip_empty):
            left_out += 1
            return None
        if not answers.clean(example.document):
            raise InputError(f"{row.where}: the document is empty; add 'document' to config.data.skip_empty to leave "
                             "such rows out")
        return example

    selection = Selection(where, "config.data")
    rows = selection.apply(sources.read_rows(source, split, folder, "config.data"))
    examples, skipped, first_error = collect(rows, make, skip=on_error == "skip")
    if not examples:
        reasons = _why_empty(skipped, left_out, skip_empty, first_error)
        raise InputError(f"{source}: {selection.why_empty() or reasons}")
    return LoadResult(tuple(examples), skipped, left_out, first_error, selection.left_out)


class Selection:
    """Conditions on rows, and what they left out.

    Attributes:
        left_out: rows that did not meet them.
    """

    def __init__(self, where: Sequence[str], section: str) -> None:
        """Raises InputError for what is no condition.

        Args:
            where: see `load_examples`.
            section: config section that has them, for messages.
        """
        self.left_out = 0
        self._seen: collections.Counter[str] = collections.Counter()
        self._looked_up: set[str] = set()
        self._found: set[str] = set()
        self._selected = 0
        self._section = section
        self._conditions = []
        for condition in where:
            path, equals, value = condition.partition("=")
            if not equals or not path.rstrip("!"):
                raise InputError(f"{section}.where: {condition!r} given; must be 'PATH=VALUE' or 'PATH!=VALUE'")
            self._conditions.append((path.removesuffix("!"), value, not path.endswith("!")))

    def apply(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows that meet all conditions, and those that are bad.

        Raises:
            InputError: at the end, if no row has what a condition asks for.
        """
        for row in rows:
            try:
                meets = isinstance(row.value, InputError) or self._meets(row)
            except InputError as e:
                row, meets = dataclasses.replace(row, value=e), True
            self._selected += meets
            self.left_out += not meets
            if meets:
                yield row
        for path in sorted(self._looked_up - self._found):
            raise InputError(f"{self._section}.where: no row has {path!r}")

    def _meets(self, row: Row) -> bool:
        for path, value, wanted in self._conditions:
            content = look_up(_as_mapping(row), path)
            self._looked_up.add(path)
            if content is not MISSING:
                self._found.add(path)
            text = _as_condition(row, path, content)
            if (text == value) is not wanted:
                self._seen[shown(f"{path}={text}")] += 1
                return False
        return True

    def why_empty(self) -> str:
        """Why no row is left, if that is because of the conditions; else ''."""
        if self._selected or not self.left_out:
            return ""
        seen = ", ".join(f"{what} ({count} rows)" for what, count in self._seen.most_common(5))
        return f"no row meets {self._section}.where; left out were {seen}"


def _as_condition(row: Row, path: str, value: Any) -> str:
    if value is MISSING:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return to_text(f"{row.where}: field {path!r} (config where)", value)


def _as_mapping(row: Row) -> Mapping[str, Any]:
    value = row.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # from a builtin data set
        return dataclasses.asdict(value)
    if not isinstance(value, Mapping):
        raise InputError(f"{row.where}: not a JSON object such as {{\"document\": ...}}")
    return value


def check_names(where: str, names: Any, allowed: Sequence[str]) -> None:
    """Raises InputError for the first name that is not a field, and suggests the nearest field."""
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.0)
            raise InputError(f"{where}: unknown field {name!r}; did you mean {near[0]!r}? "
                             f"Allowed are {', '.join(allowed)}")


def collect(rows: Iterator[Row], make: Callable[[Row], T | None], *, skip: bool) -> tuple[list[T], int, str]:
    """Turns rows into records. Each record has an `id`, which must be unique.

    Args:
        make: turns a row into a record; None leaves the row out.
        skip: skip bad rows instead of raising the first error.

    Returns:
        The records, the number of skipped rows, and the error of the first one ('' if none).
    """
    records: list[T] = []
    where_by_id: dict[str, str] = {}
    skipped, first_error = 0, ""
    for row in rows:
        try:
            record = make(row)
            if record is None:
                continue
            if record.id in where_by_id:
                raise InputError(f"{row.where}: id {shown(record.id)} is already used by {where_by_id[record.id]}; "
                                 "ids must be unique")
        except InputError as e:
            if not skip:
                raise
            skipped, first_error = skipped + 1, first_error or str(e)
            continue
        where_by_id[record.id] = row.where
        records.append(record)
    return records, skipped, first_error


def _why_empty(skipped: int, left_out: int, skip_empty: tuple[str, ...], first_error: str) -> str:
    reasons = []
    if skipped:
        reasons.append(f"{skipped} rows are bad, the first: {first_error}")
    if left_out:
        reasons.append(f"{left_out} rows have a blank field among config.data.skip_empty ({', '.join(skip_empty)})")
    return "no examples are left: " + "; ".join(reasons) if reasons else "the data set is empty; it needs a row"


def _check_compared(fields: Mapping[str, str], sides: Sequence[str]) -> None:
    """Raises InputError if comparisons are to be read, and something else says what draft and refinement are."""
    if not fields.get("preferred"):
        given = next((name for name in SIDES if fields.get(name)), None)
        if given is not None:
            raise InputError(f"config.data.fields.{given}: a comparison says which text is better; map that by "
                             "config.data.fields.preferred")
        return
    check_sides(sides, "config.data.sides")
    for name in ("draft", "human_refinement"):
        if fields.get(name):
            raise InputError(f"config.data.fields.{name}={fields[name]!r} with config.data.fields.preferred: the "
                             "better text of a comparison is the human_refinement, the other the draft; set only one")


def check_sides(sides: Sequence[str], where: str) -> None:
    """Raises InputError unless there are two different values of `preferred`."""
    if len(sides) != 2 or len(set(sides)) != 2:
        raise InputError(f"{where}={tuple(sides)!r}: must be two different values of `preferred`, one for the first "
                         "text and one for the second")


def compared(row: Row, values: dict[str, str], sides: Sequence[str], section: str) -> tuple[str, str, str]:
    """Two texts that somebody compared, cleaned as outputs are, and which is better: "first" or "second".

    Args:
        values: first, second and preferred of the row.
        sides: see `load_examples`.
        section: config section that has `sides`, for messages.

    Raises:
        InputError: one is empty, or `preferred` is neither of the sides.
    """
    first, second = (answers.clean(values[name]) for name in SIDES)
    for name, text in zip(SIDES, (first, second), strict=True):
        if not text:
            raise InputError(f"{row.where}: the {name} text is empty")
    preferred = values["preferred"].strip()
    if preferred not in sides:
        raise InputError(f"{row.where}: preferred is {shown(preferred)}; allowed are {sides[0]!r} (the first text) "
                         f"and {sides[1]!r} (the second), see {section}.sides")
    return first, second, SIDES[list(sides).index(preferred)]


def _to_example(row: Row, fields: Mapping[str, str], join: str | None, sides: Sequence[str]) -> Example:
    if isinstance(row.value, Example) and not fields:
        return row.value  # keeps the extra fields of a subclass
    # Many data sets have a column "group" that is not ours, so it is read only where config.data.fields maps it.
    names = [name for name in FIELDS if name != "group" or name in fields]
    pair = {}
    if fields.get("preferred"):
        given = texts(row, COMPARED, COMPARED, fields, "config.data", join)
        first, second, better = compared(row, given, sides, "config.data")
        pair = {"draft": second if better == "first" else first,
                "human_refinement": first if better == "first" else second}
        names = [name for name in names if name not in pair]
    values = texts(row, names, ("document",), {n: p for n, p in fields.items() if n not in COMPARED}, "config.data",
                   join) | pair
    return Example(**{name: answers.clean(text) if name in _ANSWERS else text for name, text in values.items()})


def texts(
    row: Row, names: Sequence[str], required: Sequence[str], fields: Mapping[str, str], section: str,
    join: str | None = None,
) -> dict[str, str]:
    """The fields of a row as text, by name. `id` is always one of them.

    Args:
        row: the row to read.
        names: fields to read.
        required: fields that the row must have; it must also have those in `fields`.
        fields: name -> dotted path, see `load_examples`.
        section: config section that has `fields`, for messages: "config.data".
        join: see `load_examples`.

    Raises:
        InputError: the row is bad, or lacks a required field.
    """
    if isinstance(row.value, InputError):
        raise row.value
    value = _as_mapping(row)
    values = {}
    for field in names:
        path = fields.get(field, field)
        content = look_up(value, path) if path else MISSING
        if field == "id" and is_null(content):
            continue  # as in a row without one
        if content is not MISSING:
            values[field] = to_text(f"{row.where}: field {path!r} ({field})", content, join)
        elif field in required or (path and field in fields):
            present = ", ".join(key if key.isidentifier() and len(key) < 40 else shown(key)
                                for key in sorted(map(str, value))[:20]) or "no fields"
            raise InputError(f"{row.where}: the row lacks {path!r}, read as {field} ({section}.fields.{field}); "
                             f"it has {present}")
    values.setdefault("id", f"row-{row.number:06d}")
    if not values["id"].strip():
        raise InputError(f"{row.where}: the id is empty; give every row a unique id, or none of them an id")
    return values
