"""Examples of different lengths laid side by side in rows of one length, as the arrays that a train step takes.

B examples of a step become R rows of L tokens; T is how many predicted tokens a row can hold. Packing changes only the
layout: segments keep examples from seeing each other, positions restart, and the loss is a sum over the same tokens.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class TrainingExample:
    """Token ids of prompt + completion + end, and for each the weight of its loss (0: not predicted).

    Attributes:
        parts: lengths of the texts that it is made of, one behind the other, which do not see each other; () is one.
        document: the document that it is about. Examples of one document are all trained on, or all held back.
        reference_logprobs: log-probability of each predicted token under a reference, in nats; None without one.
        advantage: how much better than expected the text was, for policy gradients; None without one.
        beside: other texts about the document that the loss reads, by name: a teacher's context, feedback to predict.
            They lie in arrays of their own, in the row with the same number.
    """

    tokens: np.ndarray
    weights: np.ndarray
    parts: tuple[int, ...] = ()
    document: str = ""
    reference_logprobs: np.ndarray | None = None
    advantage: float | None = None
    beside: Mapping[str, "TrainingExample"] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Tokens that it takes of a row."""
        return max(len(self.tokens), *map(len, self.beside.values())) if self.beside else len(self.tokens)

    @property
    def num_tokens(self) -> int:
        """Tokens of all its texts: what it costs."""
        return len(self.tokens) + sum(len(other) for other in self.beside.values())

    @property
    def num_targets(self) -> int:
        """How many tokens are predicted. The first token of a text never is."""
        return int(np.count_nonzero(self.weights[1:]))

    def scaled(self, weight: float) -> "TrainingExample":
        """The same with all loss weights times `weight`."""
        return self if weight == 1.0 else dataclasses.replace(self, weights=self.weights * np.float32(weight))


def training_example(
    prompt_ids: Sequence[int], completion_ids: Sequence[int], end_id: int, *, prompt_weight: float
) -> TrainingExample:
    """Loss weight 1 on completion and end token, `prompt_weight` on the prompt."""
    tokens = np.array([*prompt_ids, *completion_ids, end_id], np.int32)
    weights = np.ones(len(tokens), np.float32)
    weights[: len(prompt_ids)] = prompt_weight
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
    r, previous = 0, None
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):  # stable: equal ones keep their order
        length = lengths[i]
        if length != previous:  # rows that had no room for an equally long one have none now
            r, previous = 0, length
        while r < len(free) and free[r] < length:
            r += 1
        if r == len(free):
            rows.append([i])
            free.append(row_length - length)
        else:
            rows[r].append(i)
            free[r] -= length
    return rows


def targets_per_row(examples: Sequence[TrainingExample], rows: Sequence[Sequence[int]]) -> int:
    """The most predicted tokens that any row holds."""
    return max(sum(examples[i].num_targets for i in row) for row in rows)


def beside_targets(examples: Iterable[TrainingExample], rows: Sequence[Sequence[int]]) -> dict[str, int]:
    """By name, the most predicted tokens that any row holds of the texts beside examples; {} where there are none."""
    found = list(examples)
    names = sorted({name for example in found for name in example.beside})
    return {name: max(sum(found[i].beside[name].num_targets for i in row if name in found[i].beside) for row in rows)
            for name in names}


def of_beside(batch: Mapping[str, jax.Array], name: str) -> dict[str, jax.Array]:
    """The arrays of the texts `name` beside the examples of a batch, named as those of a batch of their own."""
    return {key.removeprefix(f"{name}/"): array for key, array in batch.items() if key.startswith(f"{name}/")}


def array_shapes(
    rows: tuple[int, ...], *, row_length: int, num_targets: int, reference_logprobs: bool = False,
    advantages: bool = False, beside: Mapping[str, int] | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays that `assemble` makes.

    Args:
        rows: (R,), or (A, R) for A micro-batches.
        row_length: L.
        num_targets: T.
        reference_logprobs, advantages: whether examples have these.
        beside: T of each kind of text beside the examples, see `beside_targets`.
    """
    of_rows = {name: np.int32 for name in ("tokens", "positions", "segments")}
    of_targets = {"index": np.int32, "targets": np.int32, "weights": np.float32}
    if reference_logprobs:
        of_targets["reference_logprobs"] = np.float32
    if advantages:
        of_targets["advantages"] = np.float32
    arrays = {**{name: jax.ShapeDtypeStruct((*rows, row_length), dtype) for name, dtype in of_rows.items()},
              **{name: jax.ShapeDtypeStruct((*rows, num_targets), dtype) for name, dtype in of_targets.items()}}
    for name, targets in (beside or {}).items():
        of_name = array_shapes(rows, row_length=row_length, num_targets=targets)
        arrays |= {f"{name}/{key}": array for key, array in of_name.items()}
    return arrays


def assemble(
    examples: Sequence[TrainingExample], rows: Sequence[Sequence[int]], *, num_rows: int, row_length: int,
    num_targets: int, beside: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of one (micro-)batch: R = num_rows (empty rows are filled up), L = row_length, T = num_targets.

    Returns:
        tokens_RxL, positions_RxL, segments_RxL (0 on padding), and for the predicted tokens index_RxT (the position
        whose hidden state predicts), targets_RxT, weights_RxT (0 on padding). Examples with reference_logprobs, all or
        none, add reference_logprobs_RxT (0 on padding), those with an advantage advantages_RxT. Texts beside examples,
        of which `beside` says how many predicted tokens a row holds, add arrays of the same names behind "NAME/".
    """
    with_reference = bool(examples) and examples[0].reference_logprobs is not None
    with_advantages = bool(examples) and examples[0].advantage is not None
    shapes = array_shapes((num_rows,), row_length=row_length, num_targets=num_targets,
                          reference_logprobs=with_reference, advantages=with_advantages)
    batch = {name: np.zeros(array.shape, array.dtype) for name, array in shapes.items()}
    for r, row in enumerate(rows):
        at = filled = segment = 0
        for i in row:
            example, n = examples[i], len(examples[i].tokens)
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
            if with_advantages:
                batch["advantages"][r, span] = example.advantage
            at, filled = at + n, filled + len(predicted)
    for name, targets in (beside or {}).items():
        others = [example.beside.get(name) for example in examples]
        some = [other for other in others if other is not None]
        place = dict(zip((i for i, other in enumerate(others) if other is not None), range(len(some)), strict=True))
        of_name = assemble(some, [[place[i] for i in row if i in place] for row in rows], num_rows=num_rows,
                           row_length=row_length, num_targets=targets)
        batch |= {f"{name}/{key}": array for key, array in of_name.items()}
    return batch
