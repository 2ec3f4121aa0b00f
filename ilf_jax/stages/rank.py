"""Rank: every two systems of a run against each other, on the same held-out documents, by the judge."""

import functools
import itertools
from collections.abc import Mapping

from ilf_jax.evaluation import ranking, statistics, win_rate
from ilf_jax.inference import preferences
from ilf_jax.records import Match
from ilf_jax.runtime import distributed, preemption, progress, storage
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.stages.context import Outcome, Records, StageContext, run_stage


def rank(context: StageContext, systems: Mapping[str, Mapping[str, str]]) -> Records[Match]:
    """A Match for each pair of systems.

    Args:
        systems: name -> text of each held-out document, by id.
    """
    return run_stage(context, "rank", Match, functools.partial(_rank, context, systems))


def _rank(context: StageContext, systems: Mapping[str, Mapping[str, str]], folder: StageFolder) -> Outcome:
    pairs = list(itertools.combinations(systems, 2))
    missing = folder.missing_shards(len(pairs))
    with progress.Progress("rank", len(pairs), "pairs", done=len(pairs) - len(missing)) as bar:
        for i in missing:
            first, second = pairs[i]
            folder.write_shard(i, len(pairs), [_match(context, first, second, systems[first], systems[second])])
            bar.advance(1)
            preemption.safe_point()
    storage.flush(folder.path)
    distributed.barrier()  # each process has written its own shards
    matches = [folder.read_shard(Match, i, len(pairs))[0] for i in range(len(pairs))]
    metrics = [statistics.Metric(f"win_rate[{m.first} vs {m.second}]", m.win_rate,
                                 float("nan") if m.stderr is None else m.stderr, len(m.outcomes)) for m in matches]
    metrics += [statistics.mean(f"win_rate[{name}]", list(outcomes.values()))
                for name, outcomes in ranking.against_all(matches).items()]
    return Outcome(len(pairs), len(pairs), metrics)


def _match(
    context: StageContext, first: str, second: str, ours: Mapping[str, str], theirs: Mapping[str, str]
) -> Match:
    """One pair judged in both orders.

    Args:
        first, second: names of the systems.
        ours, theirs: their texts by example id.
    """
    orders = preferences.both_orders(context.roles.judge(), context.task, context.held_out, ours, theirs,
                                     context.config.score.batch_size)
    results = dict(zip((e.id for e in context.held_out), win_rate.outcomes(*orders).tolist(), strict=True))
    return ranking.match(first, second, results, ours, theirs)
