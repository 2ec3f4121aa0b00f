"""Rows of text files: JSON Lines, a JSON array, CSV and TSV, each also compressed with gzip.

JSON Lines and CSV are read a line at a time, so that neither a large file nor a small one that unpacks to a large one
fills the memory. gzip is recognised by its first bytes, whatever the file is called.
"""

import codecs
import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import pathlib
import re
import zlib
from collections.abc import Iterator

from ilf_jax.data.rows import Row
from ilf_jax.errors import InputError, shown
from ilf_jax.runtime import json_text

LONGEST_LINE = 64 << 20
"""Bytes."""
LARGEST_ARRAY = 1 << 30
"""Bytes of a JSON array, unpacked; it is read whole."""
_LONGEST_CELL = 4_000_000  # characters
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BETWEEN_LINES = codecs.BOM_UTF8 + b" \t\r\n"
_BLANKS = re.compile(r"[ \t\r\n]*")
# First bytes of files that are something else, whatever they are called -> what to do.
_OTHERS = {
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook; save the sheet as CSV, or unpack the archive",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save the sheet as CSV",
    b"PAR1": "is a Parquet file; name it parquet:FILE",
    b"ARROW1": "is an Arrow file; name it arrow:FILE",
    b"BZh": "is compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "is compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard; unpack it, or compress it with gzip",
}


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file on this machine's disk, and how to read it.

    Attributes:
        path: where it is.
        name: what messages call it: the URI, of a file that was fetched from a bucket.
        encoding: Python's name of it; "": UTF-8, with or without a byte order mark.
        remedy: what to do about another encoding, added to messages.
    """

    path: pathlib.Path
    name: str
    encoding: str = ""
    remedy: str = ""

    @contextlib.contextmanager
    def opened(self) -> Iterator[io.BufferedReader | gzip.GzipFile]:
        """The unpacked bytes. Raises InputError if the file is of another kind, or the archive is damaged."""
        try:
            with self.path.open("rb") as file:
                head = file.peek(8)[:8]
                for magic, what in _OTHERS.items():
                    if head.startswith(magic):
                        raise InputError(f"{self.name}: {what}")
                if not head.startswith(_GZIP):
                    yield file
                    return
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield unpacked
        except EOFError as e:
            raise InputError(f"{self.name}: the gzip archive ends too early; the copy or download was cut off") from e
        except (gzip.BadGzipFile, zlib.error) as e:
            raise InputError(f"{self.name}: the gzip archive is damaged: {e}") from e

    def lines(self) -> Iterator[bytes]:
        """The lines with their ends, in UTF-8. Raises InputError as `opened`, or if a line is too long or undecodable.

        At most one line is in memory.
        """
        number = 0
        with self.opened() as file:
            try:
                text = io.TextIOWrapper(file, self.encoding, newline="\n") if self.encoding else None
                while line := (file.readline(LONGEST_LINE + 1) if text is None
                               else text.readline(LONGEST_LINE + 1).encode()):
                    number += 1
                    if len(line) > LONGEST_LINE:
                        raise InputError(f"{self.name}:{number}: the line is longer than {LONGEST_LINE >> 20} MB")
                    yield line.removeprefix(codecs.BOM_UTF8) if text is not None and number == 1 else line
            except UnicodeError as e:
                raise InputError(f"{self.name}:{number + 1}: is not {self.encoding}: {str(e)[:200]}") from e


def read_jsonl(file: TextFile) -> Iterator[Row]:
    """The rows of a JSON Lines file; blank lines are passed over. A damaged line is a Row with an InputError."""
    for number, line in enumerate(file.lines(), start=1):
        if line.strip(_BETWEEN_LINES if number == 1 else None):
            where = f"{file.name}:{number}"
            try:
                value = json_text.parse_line(line, first=number == 1)
            except ValueError as e:
                remedy = file.remedy if "UTF" in str(e).split(";")[0] else ""
                value = InputError(f"{where}: the line is {e}{remedy}")
            yield Row(where, number, value)


def read_json(file: TextFile) -> Iterator[Row]:
    """The rows of a .json file: an array of objects, or an object a line.

    Raises:
        InputError: an array is too large, or damaged; what stands behind its end included.
    """
    with file.opened() as opened:
        start = opened.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        yield from _read_array(file)
        return
    for row in read_jsonl(file):
        if row.number == 1 and isinstance(row.value, InputError):
            raise InputError(f"{row.value} (a .json file is an array of objects, or has an object a line)")
        yield row


def _read_array(file: TextFile) -> Iterator[Row]:
    text = _whole(file)
    line, counted = 1, 0  # the line that position `counted` is on

    def where(at: int) -> str:
        nonlocal line, counted
        line, counted = line + text.count("\n", counted, at), at
        return f"{file.name}:{line}"

    number, at = 0, _after_blanks(text, _after_blanks(text, 0) + 1)
    while number or not text.startswith("]", at):
        number += 1
        place = f"{where(at)} (row {number})"
        try:
            value, at = json_text.DECODER.raw_decode(text, at)
        except RecursionError as e:
            raise InputError(f"{place}: is not valid JSON: nested too deeply") from e
        except ValueError as e:
            raise InputError(f"{place}: is not valid JSON: {e}") from e
        yield Row(place, number, value)
        at = _after_blanks(text, at)
        if text.startswith("]", at):
            break
        if not text.startswith(",", at):
            raise InputError(f"{where(at)}: is not valid JSON: a ',' or the array's end ']' is missing after row "
                             f"{number}")
        at = _after_blanks(text, at + 1)
    behind = _after_blanks(text, at + 1)
    if behind < len(text):
        raise InputError(f"{where(behind)}: is not valid JSON: there is more after the array's end: "
                         f"{shown(text[behind:behind + 80])}")


def _whole(file: TextFile) -> str:
    with file.opened() as opened:
        data = opened.read(LARGEST_ARRAY + 1)
    if len(data) > LARGEST_ARRAY:
        raise InputError(f"{file.name}: an array of more than {LARGEST_ARRAY >> 20} MB; write JSON Lines instead, an "
                         "object a line, which is read a line at a time")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise InputError(f"{file.name}:{line}: {_not_utf8(data[e.start])}{file.remedy}") from e


def _after_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return at if match is None else match.end()


def read_csv(file: TextFile, delimiter: str = "") -> Iterator[Row]:
    """The rows of a CSV file with a line of headings; every value is a text. Blank lines are passed over.

    A row with too few or too many cells is a Row with an InputError.

    Args:
        delimiter: between cells; "": a comma if the headings have one, else a semicolon or a tab if they have one.

    Raises:
        InputError: the file is not UTF-8, not CSV, or two columns have the same heading.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = _decoded(file)
    head = next(lines, "")
    delimiter = delimiter or next((d for d in ",;\t" if d in head), ",")
    reader = csv.reader(itertools.chain([head], lines), delimiter=delimiter, strict=True)
    heads: list[str] = []
    number = 0
    while True:
        where = f"{file.name}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as e:
            raise InputError(f"{where}: is not CSV: {e}") from e
        if cells is None:
            return
        if not heads:
            heads = _headings(where, cells)
        elif cells:
            number += 1
            yield Row(where, number, dict(zip(heads, cells, strict=True)) if len(cells) == len(heads) else InputError(
                f"{where}: has {len(cells)} cells, the headings are {len(heads)}"))


def _headings(where: str, cells: list[str]) -> list[str]:
    for name, count in collections.Counter(cells).items():
        if count > 1:
            raise InputError(f"{where}: {count} columns have the same heading, {shown(name)}")
    return cells


def _decoded(file: TextFile) -> Iterator[str]:
    for number, line in enumerate(file.lines(), start=1):
        where = f"{file.name}:{number}"
        if (number == 1 and line.startswith(_UTF16)) or b"\0" in line:
            raise InputError(f"{where}: is UTF-16; save the file as UTF-8{file.remedy.replace('cp1252', 'utf-16')}")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise InputError(f"{where}: {_not_utf8(line[e.start])}{file.remedy}") from e
        # Ends of lines as old Macs wrote them: the csv module wants one line at a time.
        yield from re.findall(r"[^\r]*\r\n?|[^\r]+", text) if "\r" in text else [text]


def _not_utf8(byte: int) -> str:
    return f"is not UTF-8 (byte 0x{byte:02x}, as in Windows-1252 or Latin-1); save the file as UTF-8"
