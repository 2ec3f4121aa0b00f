"""What training leaves behind: a model with its tokenizer on disk, and in the pool for whoever asks next."""

import jax
import numpy as np

from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.model_pool import Roles
from ilf_jax.models import layer_stack
from ilf_jax.models.architecture import to_facts
from ilf_jax.models.transformer import Params
from ilf_jax.runtime import checkpoint, distributed, files, performance, storage
from ilf_jax.runtime.pending import Pending


def save(
    roles: Roles, folder: storage.Path, lm: LanguageModel, params: Params, replaces: storage.Path | None = None
) -> Pending[None]:
    """Begins to write a trained model with its tokenizer, and puts it into the pool.

    Args:
        roles: whose pool.
        folder: of the checkpoint.
        lm: the model that was trained; its own params do not matter.
        params: the trained ones.
        replaces: the checkpoint whose place it takes in the pool.

    Returns:
        Done once the checkpoint is complete on the disk.
    """
    params = lm.placement.params(params, "train")
    saved = checkpoint.save_model(folder, _one_by_one(params), to_facts(lm.architecture))
    if distributed.is_main():
        with performance.saving(), storage.written_locally(folder / "tokenizer") as place:
            lm.tokenizer.save(place)
            files.note_folder(place)
    roles.put(folder, params, lm.architecture, replaces)
    return saved


def _one_by_one(params: Params) -> Params:
    """Stacks split, on the host where it can reach all of them: on the device that would be a second copy."""
    if not any(map(layer_stack.is_stacked, params)):
        return params
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params)):
        with performance.saving():
            params = jax.tree.map(np.asarray, params)
    return layer_stack.one_by_one(params)
