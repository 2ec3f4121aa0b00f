"""A run's documents: read once, then divided among iterations and evaluation."""

import dataclasses
from collections.abc import Iterator

from ilf_jax.config import Config
from ilf_jax.config_sections import Data
from ilf_jax.data import loading, overlap
from ilf_jax.errors import InputError
from ilf_jax.records import Example
from ilf_jax.runtime import progress


@dataclasses.dataclass(frozen=True)
class Documents:
    """The documents of each iteration (counted from 1), and the held-out ones.

    Attributes:
        leaked: how many of the held-out ones are among the others, too.
    """

    by_iteration: dict[int, tuple[Example, ...]]
    held_out: tuple[Example, ...]
    leaked: int = 0

    def texts(self) -> Iterator[str]:
        """What a tokenizer learns from: the documents of all iterations with their references."""
        return (f"{e.document} {e.reference}" for examples in self.by_iteration.values() for e in examples)


def load_documents(config: Config) -> Documents:
    """Reads the data and divides it. Raises InputError if it is bad or too small."""
    data = config.data
    loaded = _load(data, data.source, data.split)
    if loaded.left_out:
        progress.log(f"{data.source}: left out {loaded.left_out} rows with a blank {' or '.join(data.skip_empty)}")
    rows = loaded.examples
    num_held_out = data.eval_size if data.eval_source is None else 0
    size = data.train_size
    needed = (len(rows) - num_held_out if size is None else size * config.iterations) + num_held_out
    if max(needed, num_held_out + (config.iterations > 0)) > len(rows):
        training = "at least one document to train on" if size is None else (
            f"{config.iterations} iterations of config.data.train_size={size}")
        raise InputError(f"{data.source} has {len(rows)} usable documents, too few for {training} and "
                         f"config.data.eval_size={num_held_out} held-out ones: "
                         f"{max(needed, num_held_out + 1)} are needed")
    train = rows[: needed - num_held_out]
    by_iteration = {
        k: tuple(train if size is None else train[(k - 1) * size : k * size]) for k in range(1, config.iterations + 1)
    }
    held_out = rows[len(rows) - num_held_out :]  # the last rows, so that more iterations keep them
    if data.eval_source is not None:
        examples = _load(data, data.eval_source, data.eval_split).examples
        if len(examples) < data.eval_size:
            progress.log(f"{data.eval_source}: {len(examples)} documents, fewer than config.data.eval_size="
                         f"{data.eval_size}; all are held out")
        held_out = examples[: data.eval_size]
    shared = overlap.overlap((e.document for e in train), (e.document for e in held_out))
    if shared.warning:
        progress.log(f"{data.source}: {shared.warning}")
    return Documents(by_iteration, tuple(held_out), shared.leaked)


def _load(data: Data, source: str, split: str) -> loading.LoadResult:
    loaded = loading.load_examples(
        source, data.fields.mapping(), on_error=data.on_error, skip_empty=data.skip_empty, folder=data.folder,
        split=split, where=data.where, join=data.join, sides=data.sides,
    )
    if loaded.not_selected:
        progress.log(f"{source}: config.data.where leaves out {loaded.not_selected} rows")
    if loaded.skipped:
        progress.log(f"{source}: skipped {loaded.skipped} bad rows, the first: {loaded.first_error}")
    return loaded
