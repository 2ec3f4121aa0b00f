"""What there is to compare in work folders, and the tables that a comparison ends with."""

from collections.abc import Mapping, Sequence

from ilf_jax.errors import InputError
from ilf_jax.evaluation import ranking, systems
from ilf_jax.records import Example, Match
from ilf_jax.reporting import workfolder
from ilf_jax.runtime import progress


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
        own_name = work.config["finetune"]["target"]
        for run_name, run in {own_name: work, **work.baselines}.items():
            for name, texts in _systems_of(run, run_name).items():
                by_name[before + name] = texts
        held_out = work.iterations[0].heldout if work.iterations else {}
        if documents and documents != held_out:
            raise InputError(f"--workdir {path}: was evaluated on other documents than {workdirs[0]}")
        documents = held_out
    return documents, by_name


def _systems_of(work: workfolder.WorkFolder, name: str) -> dict[str, systems.Texts]:
    by_number = {iteration.number: iteration for iteration in work.iterations}
    last = max((k for k, iteration in by_number.items() if iteration.rows("evaluate")), default=None)
    if last is None:
        return {}
    by_name = systems.of_policies(
        name, last, work.config["evaluate"].get("best_of_n", 1),
        lambda k: by_number[k].rows("evaluate") if k in by_number else {},
        lambda k: by_number[k].rows("best_of_n") if k in by_number else {})
    return by_name | systems.of_people(by_number[last].heldout.values())


def choose(
    by_name: Mapping[str, systems.Texts], names: Sequence[str] | None, documents: Mapping[str, Example]
) -> dict[str, systems.Texts]:
    """The systems that are named. Raises InputError if there are fewer than two, or one has no text somewhere."""
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


def print_matches(matches: Sequence[Match], by_criterion: Mapping[str, Sequence[Match]] | None = None) -> None:
    """One table of the pairs, those judged by single criteria below the others, and one of the systems."""
    rows = [["overall", *_cells(m)] for m in matches]
    rows += [[name, *_cells(m)] for name, of_criterion in (by_criterion or {}).items() for m in of_criterion]
    columns = ["criterion", "first", "second", "first wins", "95 % interval", "at equal length", "n"]
    start = 0 if by_criterion else 1  # nothing but overall: no column that says so
    progress.print_table("win rates, ties half", columns[start:], [row[start:] for row in rows])
    overall = ranking.against_all(matches)
    progress.print_table("against all others", ["system", "win rate"], [
        [name, f"{sum(of_system.values()) / len(of_system):.3f}"] for name, of_system in overall.items()])


def _cells(m: Match) -> list[str | int]:
    return [m.first, m.second, f"{m.win_rate:.3f}" + (f" ± {m.stderr:.3f}" if m.stderr is not None else ""),
            f"{m.low:.3f} to {m.high:.3f}", f"{m.length_controlled:.3f}", len(m.outcomes)]
