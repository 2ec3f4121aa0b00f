"""Compares what finished runs wrote for the same held-out documents: by people, or by a judge.

python -m ilf_jax.compare --workdir=DIR [--workdir=DIR2 ...]                           lists the systems
python -m ilf_jax.compare --workdir=DIR --systems=NAME,NAME --export=FILE [--seed=N]   pairs for people to judge
python -m ilf_jax.compare --workdir=DIR --systems=NAME,NAME --read=FILE                what they said
python -m ilf_jax.compare --workdir=DIR --systems=NAME,NAME --judge=URI --out=DIR2     what a model says
"""

from collections.abc import Sequence

from absl import flags

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_uris
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import last_defence, storage

_WORKDIR = flags.DEFINE_multi_string("workdir", None, "The work folder of a run; of several, systems are DIR/NAME.")
_SYSTEMS = flags.DEFINE_list("systems", None, "Names, two or more, of what is to be compared.")
_EXPORT = flags.DEFINE_string("export", None, "Write pairs for people to this file; which is which goes beside it.")
_READ = flags.DEFINE_string("read", None, "Read such a file back, with answers filled in.")
_JUDGE = flags.DEFINE_string("judge", None, "Checkpoint URI of a model that judges.")
_OUT = flags.DEFINE_string("out", None, "With --judge: folder for its judgements; a stopped comparison resumes.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the order in which pairs, and the two sides of each, are shown.",
                             lower_bound=0)


@last_defence.guarded("comparing", lambda: _WORKDIR.value[0] if _WORKDIR.value else None)
def main(argv: Sequence[str]) -> int:
    """Exit code 2 where the input is at fault."""
    workdirs = _checked(argv)
    from ilf_jax.comparison import by_people, compared  # these load numpy and more, so after the flags are checked

    documents, by_name = compared.read_systems(workdirs)
    if not (_EXPORT.value or _READ.value or _JUDGE.value):
        print("\n".join(by_name))
        return 0
    chosen = compared.choose(by_name, _SYSTEMS.value, documents)
    if _EXPORT.value:
        count = by_people.export(storage.path(_EXPORT.value), documents, chosen, _SEED.value)
        print(f"{_EXPORT.value}: {count} pairs; fill in \"better\" of each line: A, B or tie")
    elif _READ.value:
        by_criterion = by_people.read(storage.path(_READ.value), chosen)
        compared.print_matches(by_criterion.pop(by_people.OVERALL), by_criterion)
    elif _JUDGE.value and _OUT.value:
        from ilf_jax.comparison import by_judge  # loads jax, which people's answers do not need

        config = workfolder.read(workdirs[0]).config
        compared.print_matches(by_judge.judge(config, _JUDGE.value, storage.path(_OUT.value), documents, chosen))
    return 0


def _checked(argv: Sequence[str]) -> list[str]:
    """The work folders. Raises InputError for what is wrong with them or the flags, as far as it shows at once."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; flags begin with --")
    if not _WORKDIR.value:
        raise InputError("--workdir=DIR is needed: the work folder of a run")
    for workdir in _WORKDIR.value:
        workfolder.check(workdir)
    if _JUDGE.value:
        if not _OUT.value:
            raise InputError("--judge needs --out=DIR, where what it says is kept")
        try:
            checkpoint_uris.look(_JUDGE.value)
        except InputError as e:
            raise InputError(f"--judge: {e}") from e
    return _WORKDIR.value
