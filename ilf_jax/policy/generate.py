"""Writes outputs of a trained policy for documents of yours.

ilf-jax generate --workdir=DIR [--iteration=K] [--baseline=NAME] [--n=N] [--best_of=N] [--temperature=T] DOCUMENT ...
ilf-jax generate --workdir=DIR --file=FILE [--json]    each line of FILE is a document; - reads standard input
ilf-jax generate --workdir=DIR --interactive           asks for one document after the other
"""

import json
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from ilf_jax.errors import InputError
from ilf_jax.policy import finished
from ilf_jax.runtime import last_defence, storage

_WORKDIR = flags.DEFINE_string("workdir", None, "The work folder of a run.")
_ITERATION = flags.DEFINE_integer("iteration", None, "Which iteration's policy; the last one if not given.",
                                  lower_bound=0)
_BASELINE = flags.DEFINE_string("baseline", "", "The policy of this baseline of the run.")
_N = flags.DEFINE_integer("n", 1, "Outputs a document.", lower_bound=1)
_BEST_OF = flags.DEFINE_integer("best_of", 1, "Draw so many and show the n that the run's reward model likes best.",
                                lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", None, "0 is greedy; the run's own if not given.", lower_bound=0)
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", None, "The run's own if not given.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", None, "The run's own if not given.", lower_bound=0)
_FILE = flags.DEFINE_string("file", None, "A text file with a document on each line; - is standard input.")
_JSON = flags.DEFINE_bool("json", False, "Print a JSON object for each document.")
_INTERACTIVE = flags.DEFINE_bool("interactive", False, "Read documents from the terminal, until end of file.")


def _batches(given: Sequence[str]) -> Iterator[list[str]]:
    """The documents that are worked on together."""
    if _INTERACTIVE.value:
        while True:
            try:
                line = input("document> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            if line:
                yield [line]
    elif _FILE.value is not None:
        yield [line for line in _lines(_FILE.value) if line.strip()]
    else:
        yield list(given)


def _lines(name: str) -> list[str]:
    if name == "-":
        return sys.stdin.read().splitlines()
    path = storage.path(name)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise InputError(f"--file {path}: is not UTF-8 at byte {e.start}; convert it first") from e
    except OSError as e:
        raise InputError(f"--file {path}: cannot be read: {e.strerror or e}") from e


@last_defence.guarded("generating", lambda: _WORKDIR.value)
def main(argv: Sequence[str]) -> int:
    """Exit code 2 where the input is at fault."""
    if not _WORKDIR.value:
        raise InputError("--workdir=DIR is needed: the folder of a run")
    ways = [bool(argv[1:]), _FILE.value is not None, _INTERACTIVE.value]
    if sum(ways) != 1:
        raise InputError("give documents in one way: as arguments, by --file=FILE, or with --interactive")
    found = finished.find(_WORKDIR.value, _ITERATION.value, _BASELINE.value)
    from ilf_jax.policy import trained_policy  # loads jax, so after the flags are checked

    policy = trained_policy.of(found)
    for documents in _batches(argv[1:]):
        outputs = policy.generate(documents, _N.value, best_of=_BEST_OF.value, temperature=_TEMPERATURE.value,
                                  max_new_tokens=_MAX_NEW_TOKENS.value, seed=_SEED.value)
        for document, texts in zip(documents, outputs, strict=True):
            if _JSON.value:
                print(json.dumps({"document": document, "outputs": texts}, ensure_ascii=False), flush=True)
            else:
                print("\n".join(texts), flush=True)
    return 0
