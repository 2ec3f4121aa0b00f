"""Numbers that a model computes, checked where they reach the host."""

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.inference.language_model import LanguageModel


def check(lm: LanguageModel, values: np.ndarray, what: str) -> None:
    """Raises InputError, which names the model's checkpoint, if a value is NaN or infinite.

    Args:
        lm: computed them.
        values: of any shape.
        what: they are, in the plural.
    """
    if not np.isfinite(values).all():
        raise InputError(f"config.{lm.name}.checkpoint={lm.settings.checkpoint!r}: the model's {what} are not finite: "
                         "its weights hold NaN or infinity, or its activations overflow in config.precision")
