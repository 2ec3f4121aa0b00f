"""Rank: every two systems of a run against each other, over the same held-out documents, by the judge."""

import itertools
from collections.abc import Mapping

from ilf_jax.evaluation import ranking, statistics, win_rate
from ilf_jax.records import Match
from ilf_jax.runtime import distributed, performance, preemption, progress
from ilf_jax.stages import context as run_lib
from ilf_jax.stages import outputs


def run(run: run_lib.Run, systems: Mapping[str, Mapping[str, str]]) -> None:
    """Writes a Match for each pair of systems, and how each system does against all others.

    Args:
        systems: name -> text of each held-out example, by id.
    """
    folder, meter = run.folder("rank"), performance.Meter()
    folder.begin()
    pairs = list(itertools.combinations(systems, 2))
    todo = folder.missing_shards(len(pairs))
    with progress.Progress("rank", len(pairs), "pairs", done=len(pairs) - len(todo)) as bar:
        for i in todo:
            first, second = pairs[i]
            folder.write_shard(i, len(pairs), [_match(run, first, second, systems[first], systems[second])])
            bar.advance(1)
            preemption.safe_point()
    distributed.barrier()  # each process has written its own
    matches = [folder.read_shard(Match, i, len(pairs))[0] for i in range(len(pairs))]
    numbers = [statistics.Metric(f"win_rate[{m.first} vs {m.second}]", m.win_rate,
                                 float("nan") if m.stderr is None else m.stderr, len(m.outcomes)) for m in matches]
    numbers += [statistics.mean(f"win_rate[{name}]", list(of_system.values()))
                for name, of_system in ranking.against_all(matches).items()]
    folder.finish(shards=len(pairs), count=len(pairs), cost=meter.cost(), metrics=run.summarise("rank", numbers))


def _match(
    run: run_lib.Run, first: str, second: str, ours: Mapping[str, str], others: Mapping[str, str]
) -> Match:
    orders = outputs.both_orders(run, run.roles.get("judge"), run.held_out, ours, others)
    results = dict(zip((e.id for e in run.held_out), win_rate.outcomes(*orders).tolist(), strict=True))
    return ranking.match(first, second, results, ours, others)
