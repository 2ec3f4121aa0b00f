"""The fenced blocks of README.md, CONTRIBUTING.md and docs/*.md, and the commands in them."""

import dataclasses
import pathlib
import re
import shlex

from markdown_it import MarkdownIt

ROOT = pathlib.Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_OPERATORS = frozenset("();<>|&")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its first line of code, from 1.
        note: of the HTML comment above it: "not run: WHY", "exit 4", or "".
    """

    page: pathlib.Path
    line: int
    language: str
    text: str
    note: str

    def __str__(self):
        return f"{self.page.name}:{self.line}"

    @property
    def file_name(self):
        """Of a Python block whose first line is a comment that names a file; "" for others."""
        found = re.match(r"# (\w+\.py)\n", self.text) if self.language == "python" else None
        return found[1] if found else ""


def blocks(page):
    """The blocks of a page, in order."""
    found, note = [], ""
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            found.append(Block(page, token.map[0] + 2, token.info.strip(), token.content, note))
        comment = re.fullmatch(r"<!--(.*?)-->\s*", token.content, re.S) if token.type == "html_block" else None
        note = comment[1].strip() if comment else ""
    return found


def commands(text):
    """The simple commands of a shell block, as lists of words, without assignments before them and redirections."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="".join(_OPERATORS))
        words.whitespace_split = True
        command, redirected = [], False
        for word in words:
            if set(word) <= _OPERATORS and word:
                redirected = word in (">", "<", ">>")
                if not redirected:
                    found.append(command)
                    command = []
            elif redirected:
                redirected = False
            elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                command.append(word)
        found.append(command)
    return [command for command in found if command]
