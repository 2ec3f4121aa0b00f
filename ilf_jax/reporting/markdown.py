"""Tables in Markdown: whatever stands in a cell is shown as the text that it is."""

import re
from collections.abc import Sequence

# An underscore inside a word is plain text, and most names of metrics have some.
_SPECIAL = re.compile(r"[\\`*~|\[\]]|(?<!\w)_|_(?!\w)")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escape(text: str) -> str:
    """Text on one line in which nothing is markup: no pipe, code, emphasis, link or HTML."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split())).translate(_HTML)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a line for each row."""
    lines = [f"| {' | '.join(map(escape, cells))} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]]) + "\n"
