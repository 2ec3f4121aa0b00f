"""Which documents are worked on together, and how long their rows are. Pure arithmetic, the same on every run."""

import bisect
import collections
import itertools
import math
from collections.abc import Iterable, Sequence

_SHORTEST = 16
MOST_PROGRAMS = 4
"""Programs that a pass over a stage's texts compiles at most, however long they are."""


def bucket(length: int, multiple: int = 1) -> int:
    """The row length for `length` tokens: four sizes an octave (16, 20, 24, 28, 32, ...), so few programs compile.

    Args:
        length: tokens.
        multiple: of which the row length is one.
    """
    return _up_to(_round_up(length, steps_per_octave=4, smallest_step=1), multiple)


def power_of_two(length: int) -> int:
    """The row length for `length` tokens where programs are few and rows single: a power of two, at least 32."""
    return 1 << max(5, (length - 1).bit_length())


def _round_up(length: int, *, steps_per_octave: int, smallest_step: int) -> int:
    size = _SHORTEST
    while size < length:
        octave = 1 << (size.bit_length() - 1)
        size += max(smallest_step, octave // steps_per_octave)
    return size


def _fine(length: int, multiple: int) -> int:
    return _up_to(_round_up(length, steps_per_octave=16, smallest_step=4), multiple)


def _up_to(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def row_lengths(
    lengths: Iterable[int], program_tokens: float, *, most: int = MOST_PROGRAMS, multiple: int = 1
) -> tuple[int, ...]:
    """The few lengths that rows of these `lengths` are padded to, shortest first: a program is compiled for each.

    Found exactly, by dynamic programming: of all sets of up to `most` lengths, in steps of a sixteenth of an octave,
    the one with the fewest tokens after padding, where another length in the set counts as `program_tokens` tokens
    (what could be computed while a program compiles).

    Args:
        lengths: tokens of each row.
        program_tokens: what a program costs.
        most: lengths that there may be.
        multiple: of which each length is one.
    """
    return min((tokens + program_tokens * len(chosen), chosen) for tokens, chosen in _sets(lengths, most, multiple))[1]


def paired_row_lengths(
    first: Iterable[int], second: Iterable[int], program_tokens: float, *, most: int = MOST_PROGRAMS, multiple: int = 1
) -> tuple[float, tuple[int, ...], tuple[int, ...]]:
    """As `row_lengths`, for rows of two kinds of which a program takes some of each: one for each pair of lengths.

    Args:
        first, second: tokens of each row of either kind.
        program_tokens: what a program costs.
        most: pairs that there may be.
        multiple: of which each length of the first kind is one.

    Returns:
        Tokens after padding, programs counted in, and the lengths of either kind.
    """
    pairs = itertools.product(_sets(first, most, multiple), _sets(second, most, 1))
    costs = ((a + b + program_tokens * len(chosen_a) * len(chosen_b), chosen_a, chosen_b)
             for (a, chosen_a), (b, chosen_b) in pairs if len(chosen_a) * len(chosen_b) <= most)
    return min(costs)


def _sets(lengths: Iterable[int], most: int, multiple: int) -> list[tuple[float, tuple[int, ...]]]:
    """For each number of lengths the set of that size with the fewest tokens after padding, and how many they are."""
    counts = sorted(collections.Counter(_fine(length, multiple) for length in lengths).items())
    # Of the rows of the i shortest lengths, by i: tokens, and the set that holds them; one list for each size of sets.
    best: list[list[tuple[float, tuple[int, ...]]]] = [[(0, ()), *[(math.inf, ())] * len(counts)]]
    for _ in counts[:most]:
        last = best[-1]
        current: list[tuple[float, tuple[int, ...]]] = [(math.inf, ())]
        for i, (size, _) in enumerate(counts, start=1):
            rows = 0
            options = []
            for j in range(i, 0, -1):  # rows of lengths j..i are all padded to the i-th
                rows += counts[j - 1][1]
                tokens, chosen = last[j - 1]
                options.append((tokens + rows * size, (*chosen, size)))
            current.append(min(options))
        best.append(current)
    return [of_size[-1] for of_size in best[1:]] or [(0, ())]


def lengths_between(shortest: int, longest: int, multiple: int = 1) -> list[int]:
    """Row lengths in steps of a sixteenth of an octave, the first of them no less than `shortest`; one at least."""
    lengths = [_fine(shortest, multiple)]
    while (following := _fine(lengths[-1] + 1, multiple)) <= longest:
        lengths.append(following)
    return lengths


def row_length(longest: int, allowed: Sequence[int], multiple: int = 1) -> int:
    """The shortest of the `allowed` lengths (ascending) that holds a row.

    Where none does, the last one is doubled until it does, so that long rows add few programs; without any, the row
    gets its bucket.
    """
    if not allowed:
        return bucket(longest, multiple)
    at = bisect.bisect_left(allowed, longest)
    if at < len(allowed):
        return allowed[at]
    length = allowed[-1]
    while length < longest:
        length *= 2
    return length


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of `batch_size`, longest first, so that a batch's rows are of like length.

    Longest first, too, because memory runs out in the first batch or not at all.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def batch_size(most: int, count: int, *, refills: bool = False) -> int:
    """The batch size for `count` rows, at most `most`: as few batches as possible, and all nearly full.

    Batches are padded to one size: 40 rows at most 32 a batch are two batches of 20, not two of 32.

    Args:
        refills: a row that has ended makes room for the next one, so the largest batch needs the fewest steps.
    """
    if refills or count <= most:
        return max(1, min(most, count))
    return -(-count // -(-count // most))


def common_prefix(rows: Sequence[list[int]]) -> int:
    """Length of the longest prefix that all rows share and that leaves each at least one token. No row is empty."""
    limit = min(map(len, rows)) - 1
    # In lexicographic order no row between the first and the last differs from them earlier than those two differ.
    pairs = zip(min(rows)[:limit], max(rows)[:limit], strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), limit)
