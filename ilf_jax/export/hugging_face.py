"""Writes the policy of an iteration as a Hugging Face folder.

python -m ilf_jax.export --workdir=DIR --iteration=K --out=DIR2
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io, transformer
from ilf_jax.models.placement import Placement
from ilf_jax.runtime import checkpoint, files, last_defence, sharding, storage
from ilf_jax.tokenizers.tokenizer import Tokenizer

_WORKDIR = flags.DEFINE_string("workdir", None, "The work folder of a run.")
_ITERATION = flags.DEFINE_integer("iteration", None, "Which iteration's policy.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "The folder to write; must not exist, or be empty.")


def export(workdir: str | pathlib.Path, iteration: int, out: str | pathlib.Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer files.

    Raises:
        InputError: the iteration has no finished checkpoint, or the target folder holds something.
    """
    source = storage.path(workdir) / f"iteration_{iteration:03d}" / "checkpoint"
    target = storage.path(out)
    if "model.json" not in storage.names(source):
        raise InputError(f"--workdir {workdir}: iteration {iteration} has no finished checkpoint ({source})")
    is_file = storage.is_local(target) and target.is_file()
    if is_file or storage.names(target):
        raise InputError(f"--out {out}: is {'a file' if is_file else 'not empty'}; take another folder")
    config = checkpoint_io.read_config(f"orbax:{source}")
    with storage.read_locally(source / "tokenizer") as place:
        files.check_folder(place)
        tokenizer = Tokenizer.load(f"hf:{place}")
    # On one device each, however the run was sharded.
    placement = Placement(sharding.make_mesh(-1, 1, 1), config)
    params = checkpoint.load_model(source, placement.with_shardings(transformer.param_shapes(config), "decode"))
    ends = list(tokenizer.stop_ids)
    with storage.written_locally(target) as place:
        checkpoint_io.save_hf(
            config, params, place,
            token_ids={"bos_token_id": tokenizer.bos_id, "eos_token_id": ends[0] if len(ends) == 1 else ends},
        )
        tokenizer.save(place)


@last_defence.guarded("exporting", lambda: _WORKDIR.value)
def main(argv: Sequence[str]) -> int:
    """Exit code 2 where the input is at fault."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}")
    workdir, iteration, out = _WORKDIR.value, _ITERATION.value, _OUT.value
    if workdir is None or iteration is None or out is None:
        missing = [name for name, value in (("workdir", workdir), ("iteration", iteration), ("out", out))
                   if value is None]
        raise InputError(f"--{missing[0]} is needed")
    export(workdir, iteration, out)
    print(_OUT.value)
    return 0
