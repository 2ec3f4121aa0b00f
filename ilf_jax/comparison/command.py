"""Compares what finished runs wrote for the same held-out documents: by people, or by a judge.

python -m ilf_jax.compare --workdir=DIR [--workdir=DIR2 ...]                           lists the systems
python -m ilf_jax.compare --workdir=DIR --systems=NAME,NAME --export=FILE [--seed=N]   pairs for people to judge
python -m ilf_jax.compare --workdir=DIR --systems=NAME,NAME --read=FILE                what they said
python -m ilf_jax.compare --workdir=DIR --systems=NAME,NAME --judge=URI --out=DIR2     what a model says
"""

import sys
from collections.abc import Mapping, Sequence

from absl import flags

from ilf_jax.comparison import by_people
from ilf_jax.errors import InputError
from ilf_jax.evaluation import ranking, systems
from ilf_jax.records import Example, Match
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import last_defence, progress, storage

_WORKDIR = flags.DEFINE_multi_string("workdir", None, "The work folder of a run; of several, systems are DIR/NAME.")
_SYSTEMS = flags.DEFINE_list("systems", None, "Names, two or more, of what is to be compared.")
_EXPORT = flags.DEFINE_string("export", None, "Write pairs for people to this file; which is which goes beside it.")
_READ = flags.DEFINE_string("read", None, "Read such a file back, with answers filled in.")
_JUDGE = flags.DEFINE_string("judge", None, "Checkpoint URI of a model that judges.")
_OUT = flags.DEFINE_string("out", None, "With --judge: folder for its judgements; a stopped comparison resumes.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the order in which pairs, and the two sides of each, are shown.",
                             lower_bound=0)


def read_systems(workdirs: Sequence[str]) -> tuple[dict[str, Example], dict[str, systems.Texts]]:
    """The held-out documents, and the systems of all runs by name.

    Raises:
        InputError: a folder is not a work folder, or the runs were evaluated on other documents.
    """
    documents: dict[str, Example] = {}
    by_name: dict[str, systems.Texts] = {}
    for path in workdirs:
        work = workfolder.read(path)
        before = f"{path}/" if len(workdirs) > 1 else ""
        for run in (work, *work.baselines.values()):
            for name, texts in _systems_of(run).items():
                by_name[before + name] = texts
        held_out = work.iterations[0].heldout if work.iterations else {}
        if documents and documents != held_out:
            raise InputError(f"--workdir {path}: was evaluated on other documents than {workdirs[0]}")
        documents = held_out
    return documents, by_name


def _systems_of(work: workfolder.WorkFolder) -> dict[str, systems.Texts]:
    by_number = {iteration.number: iteration for iteration in work.iterations}
    last = max((k for k, iteration in by_number.items() if iteration.rows("evaluate")), default=None)
    if last is None:
        return {}
    by_name = systems.of_policies(
        work.config["finetune"]["target"], last, work.config["evaluate"].get("best_of_n", 1),
        lambda k: by_number[k].rows("evaluate") if k in by_number else {},
        lambda k: by_number[k].rows("best_of_n") if k in by_number else {})
    return by_name | systems.of_people(by_number[last].heldout.values())


def _chosen(
    by_name: Mapping[str, systems.Texts], names: Sequence[str] | None, documents: Mapping[str, Example]
) -> dict[str, systems.Texts]:
    if not names or len(set(names)) < 2:
        raise InputError(f"--systems: name two or more of {', '.join(by_name)}")
    for name in names:
        if name not in by_name:
            raise InputError(f"--systems: there is no {name!r}; there are {', '.join(by_name)}")
        missing = [i for i in documents if i not in by_name[name]]
        if missing:
            raise InputError(f"--systems: {name} has no text for {len(missing)} of {len(documents)} documents, the "
                             f"first is {missing[0]!r}; is the run finished?")
    return {name: by_name[name] for name in names}


def _judge(documents: Mapping[str, Example], chosen: Mapping[str, systems.Texts]) -> list[Match]:
    from ilf_jax.comparison import by_judge  # loads jax, which people's answers do not need

    if not _OUT.value or not _WORKDIR.value or not _JUDGE.value:
        raise InputError("--judge needs --out=DIR, where what it says is kept")
    config = workfolder.read(_WORKDIR.value[0]).config
    return by_judge.judge(config, _JUDGE.value, storage.path(_OUT.value), documents, chosen)


def print_matches(matches: Sequence[Match]) -> None:
    """One table of the pairs, one of the systems."""
    columns = ["first", "second", "first wins", "95 % interval", "at equal length", "n"]
    progress.print_table("win rates, ties half", columns, [
        [m.first, m.second, f"{m.win_rate:.3f}" + (f" ± {m.stderr:.3f}" if m.stderr is not None else ""),
         f"{m.low:.3f} to {m.high:.3f}", f"{m.length_controlled:.3f}", len(m.outcomes)] for m in matches])
    overall = ranking.against_all(matches)
    progress.print_table("against all others", ["system", "win rate"], [
        [name, f"{sum(of_system.values()) / len(of_system):.3f}"] for name, of_system in overall.items()])


@last_defence.guarded("comparing", lambda: _WORKDIR.value[0] if _WORKDIR.value else None)
def main(argv: Sequence[str]) -> int:
    """Exit code 2 where the input is at fault."""
    try:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; flags begin with --")
        if not _WORKDIR.value:
            raise InputError("--workdir=DIR is needed: the work folder of a run")
        documents, by_name = read_systems(_WORKDIR.value)
        if not (_EXPORT.value or _READ.value or _JUDGE.value):
            print("\n".join(by_name))
            return 0
        chosen = _chosen(by_name, _SYSTEMS.value, documents)
        if _EXPORT.value:
            count = by_people.export(storage.path(_EXPORT.value), documents, chosen, _SEED.value)
            print(f"{_EXPORT.value}: {count} pairs; fill in \"better\" of each line: A, B or tie")
        elif _READ.value:
            print_matches(by_people.read(storage.path(_READ.value), chosen))
        else:
            print_matches(_judge(documents, chosen))
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0
