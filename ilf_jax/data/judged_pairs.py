"""The file of pairs that people judge: a line each, with the texts A and B and the field `better` to be filled in.

The reviewing page adds `criteria`, where people are asked which text is better in some respect, too: an object of
names and answers.
"""

from collections.abc import Iterator
from typing import Any

from ilf_jax.errors import InputError, shown
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json_lines

ANSWERS = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""What may stand in `better`, and the outcome for the text shown as A."""
_LINE = "a line is an object with pair, and the texts A, B and better"


def read_pairs(path: storage.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of each pair; `better` is one of `ANSWERS`, or ""; `criteria` is there, without blank answers.

    Raises:
        InputError: the file is damaged, a pair appears twice, or an answer is none of those.
    """
    seen: set[int] = set()
    for number, row in read_json_lines(path, _LINE):
        where = f"{path}:{number}"
        texts = all(isinstance(row.get(name), str) for name in ("A", "B", "better"))
        if not texts or not isinstance(row.get("pair"), int):
            raise InputError(f"{where}: {_LINE}")
        if row["pair"] in seen:
            raise InputError(f"{where}: pair {row['pair']} appears twice")
        seen.add(row["pair"])
        better = row["better"].strip()
        if better and better not in ANSWERS:
            raise InputError(f"{where}: better is {shown(row['better'])}; allowed are {', '.join(ANSWERS)}")
        yield where, {**row, "better": better, "criteria": _criteria(where, row.get("criteria", {}), better)}


def _criteria(where: str, value: Any, better: str) -> dict[str, str]:
    if not isinstance(value, dict) or "" in value or any(answer not in ("", *ANSWERS) for answer in value.values()):
        raise InputError(f"{where}: criteria is an object of names of criteria, each with {', '.join(ANSWERS)}, or "
                         "nothing")
    given = {name: answer for name, answer in value.items() if answer}
    if given and not better:
        raise InputError(f"{where}: has criteria, but no answer in \"better\"; say which text is better overall, too")
    return given
