"""Which documents are worked on together, and how long their rows are. Pure arithmetic, the same on every run."""

from collections.abc import Sequence

_STEPS_PER_OCTAVE = 4
_SHORTEST = 16


def bucket(length: int) -> int:
    """The row length for `length` tokens: four sizes an octave (16, 20, 24, 28, 32, ...), so few programs compile."""
    size = _SHORTEST
    while size < length:
        octave = 1 << (size.bit_length() - 1)
        size += octave // _STEPS_PER_OCTAVE
    return size


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of `batch_size`, longest first, so that a batch's rows are of like length.

    Longest first, too, because memory runs out in the first batch or not at all.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix that all rows share and that leaves each at least one token."""
    shortest = min(len(row) for row in rows)
    for i in range(shortest - 1):
        if any(row[i] != rows[0][i] for row in rows):
            return i
    return shortest - 1
