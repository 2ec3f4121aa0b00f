"""Best of N: N outputs for each held-out example, and the one that the reward model likes best (PAPER: N = 64)."""

from collections.abc import Callable

import numpy as np

from ilf_jax.evaluation import statistics
from ilf_jax.inference import answer_scoring, reward_scorer
from ilf_jax.records import BestOfN, Example
from ilf_jax.runtime import performance
from ilf_jax.sampling import decode
from ilf_jax.scoring import selection
from ilf_jax.stages import context as run_lib
from ilf_jax.stages import outputs


def run(run: run_lib.Run) -> None:
    """Writes a BestOfN for each held-out example, and the metrics of the picked texts."""
    folder, settings, meter = run.folder("best_of_n"), run.config.evaluate, performance.Meter()
    folder.begin()
    N = settings.best_of_n
    policy = run.roles.get("policy")
    # config.evaluate.batch_size outputs are worked on at once, whosever they are; so are as many rewards as in scoring.
    documents = max(1, settings.batch_size // N)
    prefixes = max(1, run.config.score.batch_size * run.config.refine.num_candidates // N)
    generator, prompts = outputs.generator(run, policy, documents)
    model = reward_scorer.Rewarder(run.roles.get("reward_model"), run.task, run.config.reward.kind)
    works: dict[str, performance.Work] = {}

    def start(batch: list[Example]) -> Callable[[], list[BestOfN]]:
        keys = decode.candidate_keys(run.config.seed, 0, "best_of_n", [e.id for e in batch], range(N))
        samples = generator.start([prompts[e.id] for e in batch], keys)

        def finish() -> list[BestOfN]:
            drawn = samples()
            texts = [[outputs.text_of(run, s.text) for s in group] for group in drawn]
            # A model that compares needs something to compare with: the first output.
            asked = [model.ask(e, of_one, of_one[0]) for e, of_one in zip(batch, texts, strict=True)]
            arrangement = answer_scoring.arrange_part(asked)
            rewards = model.start(asked, prefixes, arrangement)()
            for e, group, one in zip(batch, drawn, asked, strict=True):
                drawing = generator.work(prompts[e.id], [len(s.tokens) for s in group])
                works[e.id] = run_lib.total([drawing, model.work(one, arrangement)])
            return [_pick(run, e, *found) for e, *found in zip(batch, texts, rewards, strict=True)]

        return finish

    done = run_lib.process_shards(run, "best_of_n", run.held_out, [len(prompts[e.id].ids) for e in run.held_out],
                                  documents, BestOfN, start, lambda best: works[best.id])
    found = done.records
    texts = {i: best.texts[best.chosen] for i, best in found.items()}
    numbers = [
        *outputs.numbers(run, texts),
        statistics.mean("reward_chosen", [best.rewards[best.chosen] for best in found.values()]),
        statistics.mean("reward_mean", [float(np.mean(best.rewards)) for best in found.values()]),
        statistics.mean("unique_outputs", [len(set(best.texts)) / N for best in found.values()]),
    ]
    if settings.win_rate:
        numbers += outputs.win_rates(run, texts)
    cost = meter.cost(done.work, run.config.precision)
    folder.finish(shards=done.shards, count=len(found), cost=cost, metrics=run.summarise("best_of_n", numbers))


def _pick(run: run_lib.Run, example: Example, texts: list[str], rewards: np.ndarray) -> BestOfN:
    usable = np.array([[run.task.is_usable(example, text) for text in texts]])
    chosen = int(selection.best_of_n(rewards[None], usable)[0])
    return BestOfN(example.id, texts, [float(r) for r in rewards], chosen)
