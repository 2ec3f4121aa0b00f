"""Pairs of texts for people to judge, blinded and in an order that a seed decides, and what they say of them.

Two files: the pairs, a line each with the field `better` to be filled in, and beside them, in FILE.key.json, which side
is whose. Judges are given the first only.
"""

import itertools
import json
import random
from collections.abc import Mapping
from typing import Any

from ilf_jax.data import judged_pairs
from ilf_jax.errors import InputError
from ilf_jax.evaluation import ranking
from ilf_jax.records import Example, Match
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json, write_atomically

ANSWERS = judged_pairs.ANSWERS
OVERALL = ""
"""Which text is better, all in all; other criteria have names."""


def export(
    path: storage.Path, documents: Mapping[str, Example], systems: Mapping[str, Mapping[str, str]], seed: int
) -> int:
    """Writes both files and returns how many pairs there are. Texts that are equal are not asked about: they tie.

    Raises:
        InputError: a file is there already.
    """
    key_path = _key_path(path)
    for there in (path, key_path):
        if there.exists():
            raise InputError(f"--export {there}: exists and may contain answers; choose another name")
    pairs = [(first, second, i) for first, second in itertools.combinations(systems, 2) for i in documents
             if systems[first][i] != systems[second][i]]
    rng = random.Random(seed)
    rng.shuffle(pairs)
    lines, key = [], {}
    for number, (first, second, i) in enumerate(pairs, start=1):
        shown = [first, second]
        rng.shuffle(shown)
        row = {"pair": number, "title": documents[i].title, "document": documents[i].document,
               "A": systems[shown[0]][i], "B": systems[shown[1]][i], "better": ""}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        key[str(number)] = {"document": i, "A": shown[0], "B": shown[1]}
    write_atomically(key_path, json.dumps(key, indent=1, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))
    return len(pairs)


def read(path: storage.Path, systems: Mapping[str, Mapping[str, str]]) -> dict[str, list[Match]]:
    """The win rates that the answers in `path` give, by criterion; `OVERALL`: which text is better.

    Pairs without an answer are left out; equal texts are ties.

    Of the documents with equal texts, which nobody was asked about, as large a share counts as was answered of the
    others: all of them beside a few answers would draw the win rate to a half, with too small an error.

    Raises:
        InputError: a file is missing or not as it was exported, an answer is none of A, B, tie, or there are none.
    """
    key_path = _key_path(path)
    for needed in (path, key_path):
        if not needed.exists():
            raise InputError(f"--read {needed}: there is no such file; --export makes both")
    key = read_json(key_path, "export the pairs again")
    compared = set(itertools.combinations(systems, 2))
    outcomes: dict[str, dict[tuple[str, str], dict[str, float]]] = {OVERALL: {}}
    for where, row in judged_pairs.read_pairs(path):
        entry: Any = key.get(str(row["pair"]))
        if not _is_of(systems, entry) or any(systems[entry[side]][entry["document"]] != row[side] for side in "AB"):
            raise InputError(f"{where}: is not a pair of these systems as it was exported; only \"better\" may be "
                             "changed, and --systems and --workdir must be those of the export")
        given = {OVERALL: row["better"], **row["criteria"]} if row["better"] else {}
        for criterion, answer in given.items():
            of_criterion, outcome = outcomes.setdefault(criterion, {}), ANSWERS[answer]
            if (entry["A"], entry["B"]) in compared:
                of_criterion.setdefault((entry["A"], entry["B"]), {})[entry["document"]] = outcome
            else:
                of_criterion.setdefault((entry["B"], entry["A"]), {})[entry["document"]] = 1 - outcome
    if not outcomes[OVERALL]:
        raise InputError(f"{path}: no line has an answer in \"better\" yet: A, B or tie")
    return {criterion: _matches(systems, of_criterion) for criterion, of_criterion in outcomes.items()}


def _matches(
    systems: Mapping[str, Mapping[str, str]], outcomes: Mapping[tuple[str, str], Mapping[str, float]]
) -> list[Match]:
    matches = []
    for first, second in itertools.combinations(systems, 2):
        of_pair = outcomes.get((first, second), {})
        equal = dict.fromkeys(_equal(systems[first], systems[second], len(of_pair)), 0.5)
        if of_pair or equal:
            matches.append(ranking.match(first, second, {**of_pair, **equal}, systems[first], systems[second]))
    return matches


def _equal(first: Mapping[str, str], second: Mapping[str, str], answered: int) -> list[str]:
    """Documents with equal texts: the share of them that `answered` is of the others, the same ones each time."""
    equal = sorted(i for i in first if first[i] == second[i])
    asked = len(first) - len(equal)
    if asked in (0, answered):
        return equal
    return random.Random(0).sample(equal, round(len(equal) * answered / asked))


def _is_of(systems: Mapping[str, Mapping[str, str]], entry: Any) -> bool:
    """Whether an entry of the key names two systems and a document of theirs."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("A", "B", "document")):
        return False
    return entry["A"] != entry["B"] and all(entry["document"] in systems.get(entry[side], {}) for side in "AB")


def _key_path(path: storage.Path) -> storage.Path:
    return path.with_name(f"{path.name}.key.json")
