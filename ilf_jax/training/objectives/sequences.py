"""Sums over whole texts, for losses that compare texts rather than tokens. Texts of a row are told apart by segment."""

import jax
import jax.numpy as jnp


def sums_by_text(batch: dict[str, jax.Array], values_RxT: jax.Array) -> jax.Array:
    """Sum of the values at the predicted tokens of each text, R x S.

    Place s holds the row's text s + 1, in the order in which texts lie there; places without a text hold 0. S is even.

    Args:
        batch: arrays of `packing.assemble`.
        values_RxT: a value for each predicted token; those of padding are not read.
    """
    at_RxT = jnp.take_along_axis(batch["segments"], batch["index"], axis=1)
    T = values_RxT.shape[1]  # each text has a predicted token at least
    text_RxT = jnp.where(batch["weights"] != 0, at_RxT, 0)
    values_RxT = jnp.where(batch["weights"] != 0, values_RxT, 0.0)
    sums = jax.vmap(lambda values, texts: jax.ops.segment_sum(values, texts, 1 + T + T % 2))(values_RxT, text_RxT)
    return sums[:, 1:]


def weights_by_text(batch: dict[str, jax.Array]) -> jax.Array:
    """The weight of each text, R x S: the mean over its predicted tokens; 0 where there is no text."""
    tokens = sums_by_text(batch, jnp.ones_like(batch["weights"]))
    return sums_by_text(batch, batch["weights"]) / jnp.maximum(tokens, 1.0)
