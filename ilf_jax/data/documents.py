"""A run's documents: read once, and dealt out to iterations and evaluation."""

import dataclasses

from ilf_jax.config import Config
from ilf_jax.data import loading
from ilf_jax.errors import InputError
from ilf_jax.records import Example
from ilf_jax.runtime import progress


@dataclasses.dataclass(frozen=True)
class Documents:
    """The run's documents: those of each iteration, and the held-out ones."""

    by_iteration: dict[int, tuple[Example, ...]]
    held_out: tuple[Example, ...]


def load_documents(config: Config) -> Documents:
    """Reads the data and deals it out. Raises InputError if it is bad, or too little."""
    data = config.data
    load = lambda source, split: loading.load_examples(  # noqa: E731
        source, data.fields.mapping(), on_error=data.on_error, skip_empty=data.skip_empty, folder=data.folder,
        split=split,
    )
    loaded = load(data.source, data.split)
    if loaded.skipped:
        progress.log(f"{data.source}: {loaded.skipped} bad rows skipped, the first: {loaded.first_error}")
    if loaded.left_out:
        progress.log(f"{data.source}: {loaded.left_out} rows left out, blank in {' or '.join(data.skip_empty)}")
    rows = loaded.examples
    held_back = data.eval_size if data.eval_source is None else 0
    size = data.train_size
    wanted = (len(rows) - held_back if size is None else size * config.iterations) + held_back
    if max(wanted, held_back + (config.iterations > 0)) > len(rows):
        training = "at least one document to train on" if size is None else (
            f"{config.iterations} iterations of config.data.train_size={size}")
        raise InputError(f"{data.source} has {len(rows)} usable documents, which is too few for {training} and "
                         f"config.data.eval_size={held_back} held-out ones: {max(wanted, held_back + 1)} are needed")
    train = rows[: wanted - held_back]
    by_iteration = {
        k: tuple(train if size is None else train[(k - 1) * size : k * size]) for k in range(1, config.iterations + 1)
    }
    held_out = rows[len(rows) - held_back :]  # the last rows: more iterations leave them as they are
    if data.eval_source is not None:
        other = load(data.eval_source, data.eval_split)
        if other.skipped:
            progress.log(f"{data.eval_source}: {other.skipped} bad rows skipped, the first: {other.first_error}")
        if len(other.examples) < data.eval_size:
            progress.log(f"{data.eval_source}: {len(other.examples)} documents, fewer than config.data.eval_size="
                         f"{data.eval_size}; all are held out")
        held_out = other.examples[: data.eval_size]
    return Documents(by_iteration, tuple(held_out))
