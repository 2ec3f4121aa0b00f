"""What of a text is the answer: one normalisation for all that is trained, scored or measured."""

import functools
import re
from collections.abc import Iterable, Sequence

# U+FFFD: an output that was cut inside a character. The others show nothing, though Unicode calls them no blanks.
_AROUND = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff\ufffd"

_LONGEST_ANNOUNCEMENT = 200  # characters


def _phrases(text: str) -> set[tuple[str, ...]]:
    return {tuple(phrase.split()) for phrase in text.split(",")}


_ALONE = _phrases("sure,sure thing,certainly,of course,absolutely,got it,understood")  # never answer a question
_INTERJECTIONS = _ALONE | _phrases(
    "okay,ok,alright,no problem,great,yes,happy to help,i'm happy to help,i'd be happy to help,thanks")
_THANKS = _phrases("thanks for,thank you")
_OPENINGS = (("here", "is"), ("here's",), ("here", "are"), ("below", "is"), ("this", "is"), ("the", "following", "is"))
_DETERMINERS = {"my", "your", "the", "a", "an"}
_REVISED = {"improved", "revised", "rewritten", "refined", "updated", "corrected", "edited", "shortened", "polished"}
_ADJECTIVES = _REVISED | {"better", "new", "final", "shorter", "short", "brief", "concise", "clearer", "fixed",
                          "possible", "suggested", "more", "accurate", "and"}
_LABELS = {"tl;dr", "tldr", "summary", "refinement", "revision", "rewrite", "answer", "response", "output"}
_PRODUCTS = {"tl;dr", "tldr", "summary", "refinement", "revision", "rewrite", "version", "draft"}
_NOUNS = _LABELS | _PRODUCTS | {"text", "reply", "result", "paragraph", "sentence", "title", "headline", "description"}
_REWROTE = {"rewritten", "revised", "improved", "updated", "shortened", "edited", "corrected", "condensed"}
_FIRST_PERSON = {"i", "me", "my", "mine", "we", "us", "our", "i've", "i'm", "i'd"}
# What an announcement goes on to speak of: the task and whoever gave it.
_ABOUT_THE_TASK = {
    *"you your feedback suggestion suggestions suggested instruction instructions comment comments request".split(),
    *"sentence sentences words concise shorter clearer accurate original above".split(),
    *"summary text post article passage document story draft answer input".split(),
}
_END_OF_SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f][\"')\]\u201d\u2019]*(?=\s|$)")
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_MUCH_LONGER = 4
_LONGEST_RUN = 6  # words that a text must share with an instruction to count as its echo


def clean(text: str) -> str:
    """The text less blanks, newlines and broken characters around it."""
    return text.strip(_AROUND)


def without_preamble(text: str) -> str:
    """The text less a first clause that announces it: "Sure! Here is the improved summary:".

    A clause counts only if it names a kind of text (summary, version, ...), ends in a colon, and speaks of nothing
    but the task: "Here is the text my ex sent me:" stays. Takes time linear in the text.
    """
    first, newline, rest = text.partition("\n")
    if newline and len(first) <= _LONGEST_ANNOUNCEMENT and tuple(_words(first)) in _ALONE:
        text = rest.lstrip(_AROUND)
    head, colon, answer = text[: _LONGEST_ANNOUNCEMENT + 1].partition(":")
    if not colon or answer[:1].isdigit() or answer.startswith("/"):  # a time, a score, an address
        return text
    is_heading = answer.lstrip(" \t*_").startswith("\n")
    *before, clause = re.split(r"[.!?\n]+", re.sub(r"\([^()]*\)", "", head))
    if not all(_is_interjection(_words(sentence)) for sentence in before) or not _announces(clause, is_heading):
        return text
    return text[len(head) + 1 :].lstrip(_AROUND + "*_")


def _words(text: str) -> list[str]:
    return [word.strip("'") for word in re.findall(r"[\w;']+", text.casefold().replace("\u2019", "'"))]


def _is_interjection(words: Sequence[str]) -> bool:
    return not words or tuple(words) in _INTERJECTIONS or tuple(words[:2]) in _THANKS


def _announces(clause: str, is_heading: bool) -> bool:
    """Whether a clause that ends in a colon names the text that follows it.

    Args:
        clause: without the colon.
        is_heading: it stands on a line of its own.
    """
    start, comma, rest = clause.partition(",")
    words = _words(rest if comma and _is_interjection(_words(start)) else clause)
    if words[:1] == ["i've"] or words[:2] == ["i", "have"]:
        words = words[1 if words[0] == "i've" else 2 :]
        about = words[2:]
        return (len(words) > 1 and words[0] in _REWROTE and words[1] in ("it", "this", "the", "your")
                and _is_about_the_task(about) and (bool(about) or words[1] in ("it", "this")))
    opening = next((phrase for phrase in _OPENINGS if tuple(words[: len(phrase)]) == phrase), ())
    words = words[len(opening) :]
    words = words[1 if words[:1] and words[0] in _DETERMINERS else 0 :]
    count = next((i for i, word in enumerate(words) if word not in _ADJECTIVES), len(words))
    adjectives, named = words[:count], words[count:]
    if not named or named[0] not in _NOUNS:
        return False
    if opening:
        return (bool(adjectives) or named[0] in _PRODUCTS) and _is_about_the_task(named[1:])
    revised = any(word in _REVISED for word in adjectives)
    label = named[0] in _LABELS and not adjectives
    summary = named[0] in ("tl;dr", "tldr", "summary")
    return len(named) == 1 and (revised or label or summary or (is_heading and bool(adjectives)))


def _is_about_the_task(words: Sequence[str]) -> bool:
    return not words or (not _FIRST_PERSON.intersection(words) and bool(_ABOUT_THE_TASK.intersection(words)))


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
    # A text of another length cannot be equal, whatever its case and punctuation: long documents need no look.
    if any(words == folded(other) for other in of if len(other) <= _MUCH_LONGER * len(text)):
        return True
    lines = _folded_lines(instruction)
    start = words[:_LONGEST_RUN]
    if len(start) < _LONGEST_RUN:
        return any(words == line for line in lines)
    return any(start == line[i : i + _LONGEST_RUN] for line in lines for i in range(len(line) - _LONGEST_RUN + 1))


@functools.lru_cache(maxsize=8)
def _folded_lines(instruction: str) -> list[list[str]]:
    return [folded(line) for line in instruction.splitlines()]


def folded(text: str) -> list[str]:
    """Words in lower case, without punctuation. Where none are set apart, in Han and kana, a letter counts as one."""
    return _WORD.findall(text.casefold())
