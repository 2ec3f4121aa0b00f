"""JSON that people and other programs wrote: what is wrong with a line is said in words that help to put it right."""

import codecs
import collections
import json
from typing import Any

from ilf_jax.errors import shown

_REMEDY = "save the file as UTF-8"


def parse_line(line: bytes, *, first: bool, all_texts: bool = False) -> Any:
    """The value of a line of a JSON Lines file.

    Args:
        line: the bytes of the line, with or without its end.
        first: it is the first line, which may begin with a byte order mark.
        all_texts: refuse the line if any of its texts holds half a surrogate pair, which UTF-8 cannot encode.

    Raises:
        ValueError: it is not UTF-8 (the message guesses what it is, and says what to do), not JSON, nested too deeply,
            or an object holds a key twice, of which JSON's readers silently take one.
    """
    utf16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if (first and line.startswith(utf16)) or b"\0" in line:
        raise ValueError(f"UTF-16; {_REMEDY}")
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8 (byte {e.start + 1} of the line is 0x{line[e.start]:02x}, as in Windows-1252 or "
                         f"Latin-1); {_REMEDY}") from e
    try:
        value = DECODER.decode(text)
        if all_texts and "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as e:
        raise ValueError("not valid JSON: a text has half a surrogate pair, which UTF-8 cannot encode") from e
    except RecursionError as e:
        raise ValueError("not valid JSON: nested too deeply") from e
    except ValueError as e:
        raise ValueError(f"not valid JSON: {e}") from e


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} appears twice in one object")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Refuses an object that holds a key twice. Made once: `json.loads` with a hook makes one a line."""
