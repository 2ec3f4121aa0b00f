"""Writes the policy of a run for other programs."""

import pathlib

from ilf_jax.errors import InputError
from ilf_jax.policy import finished
from ilf_jax.runtime import storage

FORMATS = ("huggingface", "peft", "gguf")
DTYPES = ("F16", "Q8_0", "F32")


def export(
    workdir: str | pathlib.Path, iteration: int | None, out: str | pathlib.Path, *, format: str = "huggingface",
    dtype: str | None = None, baseline: str = "",
) -> None:
    """Writes a policy, and a model card README.md.

    Args:
        workdir: the run's folder.
        iteration: after which; 0 is the policy before training. None: the last one that is finished.
        out: the folder to write.
        format: one of `FORMATS`.
        dtype: of matrices in a GGUF file, one of `DTYPES`; None: F16.
        baseline: name of a baseline of the run, whose policy is meant instead.

    Raises:
        InputError: the iteration has no finished checkpoint, the target folder holds something, or the format has no
            word for this model.
    """
    target = storage.path(out)
    is_file = storage.is_local(target) and target.is_file()
    if is_file or storage.names(target):
        raise InputError(f"--out {out}: is {'a file' if is_file else 'not empty'}; take another folder")
    if dtype is not None and format != "gguf":
        raise InputError(f"--dtype={dtype}: --format={format} has its weights in float32; only gguf takes a dtype")
    found = finished.find(workdir, iteration, baseline)
    # These load jax, so after the flags are checked.
    from ilf_jax.export import gguf_export, hugging_face, model_card, peft_adapter
    from ilf_jax.export.exported import Exported

    exported = Exported.of(found)
    if format == "peft":
        peft_adapter.check(exported)
    facts = gguf_export.metadata(exported) if format == "gguf" else None
    with storage.written_locally(target) as place:
        if format == "huggingface":
            hugging_face.write(exported, place)
        elif facts is None:
            peft_adapter.write(exported, place)
        else:
            gguf_export.write(exported, *facts, place, dtype or DTYPES[0])
        model_card.write(exported, place, format)
