"""Examples of different lengths laid side by side in rows of one length, as the arrays that a train step takes.

B examples of a step become R rows of L tokens; T is how many predicted tokens a row can hold. Packing changes only the
layout: segments keep examples from seeing each other, positions restart, and the loss is a sum over the same tokens.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class TrainingExample:
    """Token ids of prompt + completion + end, and for each the weight of its loss (0: not predicted).

    Attributes:
        parts: lengths of the texts that it is made of, one behind the other, which do not see each other; () is one.
        document: the document that it is about. Examples of one document are all trained on, or all held back.
        reference_logprobs: log-probability of each predicted token under a reference, in nats; None without one.
    """

    tokens: np.ndarray
    weights: np.ndarray
    parts: tuple[int, ...] = ()
    document: str = ""
    reference_logprobs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_targets(self) -> int:
        """How many tokens are predicted. The first token of a text never is."""
        return int(np.count_nonzero(self.weights[1:]))

    def scaled(self, weight: float) -> "TrainingExample":
        """The same with all loss weights times `weight`."""
        return dataclasses.replace(self, weights=self.weights * np.float32(weight))


def training_example(
    prompt_ids: Sequence[int], completion_ids: Sequence[int], end_id: int, *, prompt_weight: float
) -> TrainingExample:
    """Loss weight 1 on completion and end token, `prompt_weight` on the prompt."""
    tokens = np.array([*prompt_ids, *completion_ids, end_id], np.int32)
    weights = np.ones(len(tokens), np.float32)
    weights[: len(prompt_ids)] *= prompt_weight
    return TrainingExample(tokens, weights)


def pair(first: TrainingExample, second: TrainingExample) -> TrainingExample:
    """Two texts in one row, so that a loss can compare them."""
    return TrainingExample(np.concatenate([first.tokens, second.tokens]),
                           np.concatenate([first.weights, second.weights]), (len(first), len(second)))


def pack(lengths: Sequence[int], row_length: int, *, merge: bool) -> list[list[int]]:
    """Which examples share a row: first-fit over decreasing lengths; one a row unless `merge`.

    Raises:
        ValueError: an example is longer than a row.
    """
    if lengths and max(lengths) > row_length:
        raise ValueError(f"an example of {max(lengths)} tokens does not fit into a row of {row_length}")
    if not merge:
        return [[i] for i in range(len(lengths))]
    rows: list[list[int]] = []
    free: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = next((r for r, space in enumerate(free) if space >= lengths[i]), None)
        if fits is None:
            rows.append([i])
            free.append(row_length - lengths[i])
        else:
            rows[fits].append(i)
            free[fits] -= lengths[i]
    return rows


def targets_per_row(examples: Sequence[TrainingExample], rows: Sequence[Sequence[int]]) -> int:
    """The most predicted tokens that any row holds."""
    return max(sum(examples[i].num_targets for i in row) for row in rows)


def array_shapes(
    rows: tuple[int, ...], *, row_length: int, num_targets: int, reference_logprobs: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays that `assemble` makes.

    Args:
        rows: (R,), or (A, R) for A micro-batches.
        row_length: L.
        num_targets: T.
        reference_logprobs: whether examples have these.
    """
    of_rows = {name: np.int32 for name in ("tokens", "positions", "segments")}
    of_targets = {"index": np.int32, "targets": np.int32, "weights": np.float32}
    if reference_logprobs:
        of_targets["reference_logprobs"] = np.float32
    return {**{name: jax.ShapeDtypeStruct((*rows, row_length), dtype) for name, dtype in of_rows.items()},
            **{name: jax.ShapeDtypeStruct((*rows, num_targets), dtype) for name, dtype in of_targets.items()}}


def assemble(
    examples: Sequence[TrainingExample], rows: Sequence[Sequence[int]], *, num_rows: int, row_length: int,
    num_targets: int,
) -> dict[str, np.ndarray]:
    """The arrays of one (micro-)batch: R = num_rows (empty rows are filled up), L = row_length, T = num_targets.

    Returns:
        tokens_RxL, positions_RxL, segments_RxL (0 on padding), and for the predicted tokens index_RxT (the position
        whose hidden state predicts), targets_RxT, weights_RxT (0 on padding). Examples with reference_logprobs, all or
        none, add reference_logprobs_RxT (0 on padding).
    """
    with_reference = bool(examples) and examples[0].reference_logprobs is not None
    shapes = array_shapes((num_rows,), row_length=row_length, num_targets=num_targets,
                          reference_logprobs=with_reference)
    batch = {name: np.zeros(array.shape, array.dtype) for name, array in shapes.items()}
    for r, row in enumerate(rows):
        at = filled = segment = 0
        for i in row:
            example, n = examples[i], len(examples[i])
            batch["tokens"][r, at : at + n] = example.tokens
            begin = at
            for length in example.parts or (n,):
                segment += 1
                batch["positions"][r, begin : begin + length] = np.arange(length)
                batch["segments"][r, begin : begin + length] = segment
                begin += length
            predicted = np.flatnonzero(example.weights[1:])
            span = slice(filled, filled + len(predicted))
            batch["index"][r, span] = at + predicted
            batch["targets"][r, span] = example.tokens[predicted + 1]
            batch["weights"][r, span] = example.weights[predicted + 1]
            if with_reference:
                batch["reference_logprobs"][r, span] = example.reference_logprobs
            at, filled = at + n, filled + len(predicted)
    return batch
