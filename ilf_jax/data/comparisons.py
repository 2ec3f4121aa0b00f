"""Comparisons for a reward model, from the user's files: two texts for a document, and which one is better."""

import dataclasses
from collections.abc import Sequence

from ilf_jax.config_sections import Reward
from ilf_jax.data import loading, overlap, sources
from ilf_jax.data.rows import Row
from ilf_jax.errors import InputError
from ilf_jax.records import Comparison
from ilf_jax.runtime import progress

FIELDS = tuple(field.name for field in dataclasses.fields(Comparison))
_REQUIRED = ("document", "first", "second", "preferred")


@dataclasses.dataclass(frozen=True)
class Comparisons:
    """Training comparisons of a reward model, and the held-out ones that measure it."""

    train: tuple[Comparison, ...]
    held_out: tuple[Comparison, ...]


def load_comparisons(settings: Reward) -> Comparisons:
    """Reads the comparisons of `config.reward`.

    Raises:
        InputError: the source cannot be read, a row is bad, or there are too few rows.
    """
    loading.check_sides(settings.sides, "config.reward.sides")
    assert settings.source is not None, "the caller has checked that there are comparisons"
    rows = _load(settings, settings.source, settings.split)
    num_held_out = settings.eval_size if settings.eval_source is None else 0
    train = rows[: max(0, len(rows) - num_held_out)][: settings.train_size]
    needed = settings.train_size or 1
    if len(train) < needed:
        raise InputError(f"{settings.source} has {len(rows)} usable comparisons, too few for "
                         f"config.reward.train_size={needed} and config.reward.eval_size={num_held_out} held-out ones")
    held_out = rows[len(rows) - num_held_out :]
    if settings.eval_source is not None:
        held_out = _load(settings, settings.eval_source, settings.eval_split)[: settings.eval_size]
    leaked = overlap.overlap((c.document for c in train), (c.document for c in held_out)).leaked
    if leaked:
        progress.log(f"{settings.source}: the documents of {leaked} of {len(held_out)} held-out comparisons are in the "
                     "training data, too")
    return Comparisons(tuple(train), tuple(held_out))


def _load(settings: Reward, source: str, split: str) -> Sequence[Comparison]:
    selection = loading.Selection(settings.where, "config.reward")
    rows = selection.apply(sources.read_rows(source, split, settings.folder, "config.reward"))
    comparisons, skipped, first_error = loading.collect(rows, lambda row: _to_comparison(row, settings),
                                                        skip=settings.on_error == "skip")
    if skipped:
        progress.log(f"{source}: skipped {skipped} bad rows, the first: {first_error}")
    if selection.left_out:
        progress.log(f"{source}: config.reward.where leaves out {selection.left_out} rows")
    if not comparisons:
        why = f"the first bad row: {first_error}" if skipped else selection.why_empty() or "the data set is empty"
        raise InputError(f"{source}: no comparisons are left; {why}")
    return comparisons


def _to_comparison(row: Row, settings: Reward) -> Comparison:
    values = loading.texts(row, FIELDS, _REQUIRED, settings.fields.mapping(), "config.reward", settings.join)
    # Texts as outputs are, which the model will score.
    first, second, preferred = loading.compared(row, values, settings.sides, "config.reward")
    if first == second:
        raise InputError(f"{row.where}: both texts are equal; a comparison needs two different texts")
    return Comparison(**{**values, "first": first, "second": second, "preferred": preferred})
