"""Writes the policy of a run for other programs.

ilf-jax export --workdir=DIR --out=DIR2 [--iteration=K] [--baseline=NAME]
    --format=huggingface                       for transformers, vLLM and whatever else reads their folders
    --format=peft                              of a run with finetune.lora_rank: an adapter that peft loads
    --format=gguf [--dtype=F16|Q8_0|F32]       a file for llama.cpp, with a Modelfile for Ollama
"""

from collections.abc import Sequence

from absl import flags

from ilf_jax.errors import InputError
from ilf_jax.export.export_policy import DTYPES, FORMATS, export
from ilf_jax.runtime import last_defence

_WORKDIR = flags.DEFINE_string("workdir", None, "The work folder of a run.")
_ITERATION = flags.DEFINE_integer("iteration", None, "Which iteration's policy, 0 for the one before training; the "
                                  "last one if not given.", lower_bound=0)
_BASELINE = flags.DEFINE_string("baseline", "", "The policy of this baseline of the run.")
_OUT = flags.DEFINE_string("out", None, "The folder to write; must not exist, or be empty.")
_FORMAT = flags.DEFINE_enum("format", "huggingface", FORMATS, "What to write.")
_DTYPE = flags.DEFINE_enum("dtype", None, DTYPES, "With --format=gguf: type of the matrices; F16 if not given.")


@last_defence.guarded("exporting", lambda: _WORKDIR.value)
def main(argv: Sequence[str]) -> int:
    """Exit code 2 where the input is at fault."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}")
    workdir, out = _WORKDIR.value, _OUT.value
    if workdir is None or out is None:
        raise InputError(f"--{'workdir' if workdir is None else 'out'}=DIR is needed")
    export(workdir, _ITERATION.value, out, format=_FORMAT.value, dtype=_DTYPE.value, baseline=_BASELINE.value)
    print(out)
    return 0
