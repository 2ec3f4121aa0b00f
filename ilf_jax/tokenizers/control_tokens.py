"""Keeps control tokens in data apart from those of a chat template, through whatever the template does with the data.

Marked text has a lone surrogate in place of the first character of each control token that data spell out. Text from
data holds none (UTF-8 has no such thing), templates copy it like any other character, and what is joined to marked text
stays marked.
"""

import functools
import re
from collections.abc import Mapping

_FIRST = 0xDC00
_MARKS = re.compile("[\udc00-\udfff]")


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no encoding of Unicode has, as U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class ControlTokens:
    """The control tokens of a vocabulary, in text.

    Attributes:
        ids: by the token's text.
        eats_left, eats_right: those that take the blanks before, or behind, them along.
    """

    def __init__(
        self, ids: Mapping[str, int], eats_left: frozenset[str] = frozenset(), eats_right: frozenset[str] = frozenset()
    ) -> None:
        self.ids = {text: i for text, i in ids.items() if text}
        self.eats_left, self.eats_right = eats_left, eats_right
        self._firsts = sorted({text[0] for text in self.ids})[: 0xE000 - _FIRST]
        self._marks = {first: chr(_FIRST + i) for i, first in enumerate(self._firsts)}

    @functools.cached_property
    def _any(self) -> re.Pattern[str]:
        longest_first = sorted(self.ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @functools.cached_property
    def _beginning(self) -> re.Pattern[str]:
        return re.compile(f"(?=(?:{self._any.pattern}))(.)", re.DOTALL)

    def mark(self, text: str) -> str:
        """A text from data, marked: no control token is left in it."""
        text = well_formed(text)
        if self._any.search(text) is None:
            return text
        return self._beginning.sub(lambda match: self._marks[match[1]], text)

    @staticmethod
    def has_marks(text: str) -> bool:
        """Whether data have spelled out a control token in this marked text."""
        return not text.isascii() and _MARKS.search(text) is not None

    def unmark(self, marked: str) -> str:
        """The text that was marked."""
        return _MARKS.sub(lambda match: self._original(match[0]), marked)

    def _original(self, mark: str) -> str:
        index = ord(mark) - _FIRST
        return self._firsts[index] if index < len(self._firsts) else "\ufffd"

    def split(self, marked: str) -> list[str]:
        """Marked text in parts: text, control token, text, ..., text; each may be empty but the tokens."""
        parts, at = [], 0
        for match in self._any.finditer(marked):
            parts += [marked[at : match.start()], match[0]]
            at = match.end()
        parts.append(marked[at:])
        for i in range(1, len(parts), 2):
            if parts[i] in self.eats_left:
                parts[i - 1] = parts[i - 1].rstrip()
            if parts[i] in self.eats_right:
                parts[i + 1] = parts[i + 1].lstrip()
        return parts
