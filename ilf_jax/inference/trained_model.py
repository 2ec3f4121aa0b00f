"""What training leaves behind: a model with its tokenizer on disk, and in the pool for whoever asks next."""

from collections.abc import Callable

from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.model_pool import Roles
from ilf_jax.models.transformer import Params
from ilf_jax.runtime import checkpoint, distributed, performance, storage


def save(roles: Roles, folder: storage.Path, lm: LanguageModel, params: Params) -> Callable[[], None]:
    """Begins to write a trained model with its tokenizer, and puts it into the pool.

    Args:
        roles: whose pool.
        folder: of the checkpoint.
        lm: the model that was trained; its own params do not matter.
        params: the trained ones.

    Returns:
        Waits until the checkpoint is written.
    """
    params = lm.placement.params(params, "train")
    wait = checkpoint.save_model(folder, params, lm.architecture)
    if distributed.is_main():
        with performance.saving(), storage.written_locally(folder / "tokenizer") as place:
            lm.tokenizer.save(place)
    roles.keep(folder, params, lm.architecture)
    return wait
