"""Which examples each optimizer step sees, and in what arrays.

All of it is a function of (seed, epoch, step), so that a resumed run gets the batch that comes next.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ilf_jax.training import packing
from ilf_jax.training.packing import TrainingExample

# Steps by which the row length is chosen.
_SAMPLED_STEPS = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """All steps of a training run. Every step has the same shapes, so one compiled program serves all.

    Attributes:
        examples: what is learned.
        order: the example indices of each step.
        steps_per_epoch: the last one of an epoch may be smaller.
        accumulation: micro-batches a step.
        row_length, rows, targets: L, R (of one micro-batch) and T of the batches.
        beside: T of each kind of text beside the examples.
        merge: whether several examples share a row.
    """

    examples: Sequence[TrainingExample]
    order: tuple[tuple[int, ...], ...]
    steps_per_epoch: int
    accumulation: int
    row_length: int
    rows: int
    targets: int
    merge: bool
    beside: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Arrays of step `step`, accumulation x rows x ..."""
        examples = [self.examples[i] for i in self.order[step]]
        packed = packing.pack([len(e) for e in examples], self.row_length, merge=self.merge)
        parts = [
            packing.assemble(
                examples, packed[a * self.rows : (a + 1) * self.rows], num_rows=self.rows,
                row_length=self.row_length, num_targets=self.targets, beside=self.beside,
            )
            for a in range(self.accumulation)
        ]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def tokens(self, step: int) -> int:
        """Real tokens in a step."""
        return sum(self.examples[i].num_tokens for i in self.order[step])


def make_plan(
    examples: Sequence[TrainingExample], *, epochs: int, batch_size: int, accumulation: int, shuffle: bool, seed: int,
    merge: bool, row_lengths: Sequence[int], row_multiple: int, row_cost: Callable[[int], float] = float,
) -> Plan:
    """Plans `epochs` passes. Where the batch size does not divide an epoch, its last batch is smaller.

    Args:
        examples: what is learned.
        epochs: passes over them.
        batch_size: examples a step.
        accumulation: micro-batches of a step at most.
        shuffle: whether each epoch has an order of its own.
        seed: of these orders.
        merge: whether to pack several examples into a row.
        row_lengths: allowed L, ascending; the first holds the longest example. With `merge`, the one with the least
            computation is taken: examples fill some lengths better than others.
        row_multiple: rows of a micro-batch are a multiple of this (the shards of the mesh).
        row_cost: computation of a row by its length, in any unit.
    """
    order: list[tuple[int, ...]] = []
    for epoch in range(epochs):
        epoch_order = list(range(len(examples)))
        if shuffle:
            epoch_order = np.random.default_rng((seed, 1 + epoch)).permutation(len(examples)).tolist()
        order += [tuple(epoch_order[i : i + batch_size]) for i in range(0, len(epoch_order), batch_size)]
    lengths = [[len(examples[i]) for i in step] for step in order]

    def micro_batches(row_length: int, every: int = 1) -> tuple[int, int]:
        """(Micro-batches of a step, rows in each); fewer micro-batches than asked for if packing leaves some empty."""
        rows = max(len(packing.pack(step, row_length, merge=merge)) for step in lengths[::every])
        rows_each = -(-rows // accumulation)
        rows_each = -(-rows_each // row_multiple) * row_multiple
        return -(-rows // rows_each), rows_each

    def cost(row_length: int) -> float:
        return math.prod(micro_batches(row_length, -(-len(lengths) // _SAMPLED_STEPS))) * row_cost(row_length)

    row_length = min(row_lengths, key=cost) if merge else row_lengths[0]
    targets, beside = 0, dict.fromkeys(sorted({name for e in examples for name in e.beside}), 0)
    for step, step_lengths in zip(order, lengths, strict=True):
        packed, of_step = packing.pack(step_lengths, row_length, merge=merge), [examples[i] for i in step]
        targets = max(targets, packing.targets_per_row(of_step, packed))
        for name, of_name in packing.beside_targets(of_step, packed).items():
            beside[name] = max(beside[name], of_name)
    count, rows_each = micro_batches(row_length)
    return Plan(
        examples=examples, order=tuple(order), steps_per_epoch=len(order) // epochs, accumulation=count,
        row_length=row_length, rows=rows_each, targets=targets, merge=merge, beside=beside,
    )
