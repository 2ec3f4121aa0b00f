"""What of a text is the answer: one normalisation for all that is trained, scored or measured."""

import re
from collections.abc import Iterable

_AROUND = " \t\r\n\v\f\u00a0\u200b\u2028\u2029\ufeff\ufffd"  # U+FFFD: an output that was cut inside a character

_ADJECTIVE = (r"(?:improved|revised|rewritten|refined|updated|corrected|edited|better|new|final|shortened|shorter|"
              r"concise|polished|fixed|possible|suggested)")
_PRODUCT = r"(?:tl;?dr|summary|version|refinement|revision|rewrite|draft)"
_NOUN = rf"(?:{_PRODUCT}|text|answer|response|reply|output|result|paragraph|sentence|title|headline|description)"
# "the improved text", "a better and shorter summary", "my version"
_NAMED = rf"(?:(?:my|your|the|an?)\s+)?(?:(?:{_ADJECTIVE},?\s+(?:and\s+)?){{1,3}}{_NOUN}|{_PRODUCT})\b"
_INTERJECTION = (r"(?:(?:sure|certainly|of course|absolutely|okay|ok|yes|no problem|got it|understood|great|alright|"
                 r"thanks?|thank you|i(?:'|’)m happy to help|happy to help)\b[^\n:.!]{0,60}[.!,:]+\s*)")
_ANNOUNCEMENT = (
    rf"(?:(?:here(?:'s|’s| is| are)|below is|this is|the following is)\s+{_NAMED}[^\n:]{{0,60}}:"
    r"|i(?:'ve| have|’ve)\s+(?:rewritten|revised|improved|updated|shortened|edited|corrected)\b[^\n:]{0,60}:"
    rf"|{_NAMED}\s*(?:\([^)\n]{{0,60}}\)\s*)?:"
    r"|(?:answer|response|output)\s*:)")
_PREAMBLE = re.compile(rf"[\s*_#>\"'-]*{_INTERJECTION}{{0,2}}[*_]*{_ANNOUNCEMENT}[\s*_]*", re.IGNORECASE)
_ONLY_INTERJECTION = re.compile(rf"\s*{_INTERJECTION}\n\s*", re.IGNORECASE)
_END_OF_SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f][\"')\]\u201d\u2019]*(?=\s|$)")
_LONGEST_RUN = 6  # words that a text must share with an instruction to count as its echo


def clean(text: str) -> str:
    """The text less blanks, newlines and broken characters around it."""
    return text.strip(_AROUND)


def without_preamble(text: str) -> str:
    """The text less a first clause that announces it: "Sure! Here is the improved summary:".

    A clause counts only if it names a kind of text (summary, version, ...) and ends in a colon.
    """
    rest = _ONLY_INTERJECTION.sub("", text, count=1) if _ONLY_INTERJECTION.match(text) else text
    announced = _PREAMBLE.match(rest)
    return rest[announced.end() :] if announced else rest


def whole_sentences(text: str) -> str:
    """The text up to its last full stop, question or exclamation mark; all of it if it has none."""
    ends = [match.end() for match in _END_OF_SENTENCE.finditer(text)]
    return text[: ends[-1]] if ends else text


def is_echo(text: str, of: Iterable[str], instruction: str = "") -> bool:
    """Whether a text says again what it was to answer.

    Args:
        text: what a model wrote.
        of: texts of the prompt; equal up to case, blanks and punctuation counts.
        instruction: what the prompt says itself; to begin with six of its words, or with all of a line, counts.
    """
    words = folded(text)
    if not words:
        return False
    if any(words == folded(other) for other in of):
        return True
    lines = [folded(line) for line in instruction.splitlines()]
    start = words[:_LONGEST_RUN]
    if len(start) < _LONGEST_RUN:
        return any(words == line for line in lines)
    return any(start == line[i : i + _LONGEST_RUN] for line in lines for i in range(len(line) - _LONGEST_RUN + 1))


def folded(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return re.findall(r"\w+", text.casefold())
