"""Evaluate: what the policy writes for held-out examples, and numbers about it. Iteration 0 is before training."""

from collections.abc import Callable

from ilf_jax.evaluation import statistics
from ilf_jax.inference import likelihoods
from ilf_jax.records import Example, Output
from ilf_jax.runtime import performance
from ilf_jax.sampling import decode
from ilf_jax.stages import context as run_lib
from ilf_jax.stages import outputs


def run(run: run_lib.Run) -> None:
    """Writes an Output for each held-out example, and the metrics."""
    folder, settings, meter = run.folder("evaluate"), run.config.evaluate, performance.Meter()
    folder.begin()
    policy = run.roles.get("policy")
    generator, prompts = outputs.generator(run, policy, settings.batch_size)

    def start(batch: list[Example]) -> Callable[[], list[Output]]:
        # The same keys in every iteration: runs differ by their policy, not by luck.
        keys = decode.candidate_keys(run.config.seed, 0, "evaluate", [e.id for e in batch], [0])
        samples = generator.start([prompts[e.id] for e in batch], keys)
        return lambda: [
            Output(e.id, outputs.text_of(run, s.text), len(s.tokens), s.stopped, float(s.logprobs.sum()))
            for e, (s,) in zip(batch, samples(), strict=True)
        ]

    done = run_lib.process_shards(
        run, "evaluate", run.held_out, [len(prompts[e.id].ids) for e in run.held_out],
        settings.batch_size * settings.batches_per_shard, Output, start,
        lambda o: generator.work(prompts[o.id], [o.num_tokens]),
    )
    found = done.records
    texts = {i: o.text for i, o in found.items()}
    numbers = [
        *outputs.numbers(run, texts),
        statistics.proportion("stop_rate", [o.stopped for o in found.values()]),
        statistics.mean("mean_tokens", [o.num_tokens for o in found.values()]),
    ]
    if settings.nll:
        for field in ("reference", "human_refinement"):
            given = [(e, getattr(e, field).strip()) for e in run.held_out if getattr(e, field).strip()]
            numbers += [likelihoods.nll(run.task, policy, f"nll_{field}", given)] if given else []
    if settings.kl and run.iteration > 0:
        base = run.roles.get("base")
        numbers += likelihoods.divergence(run, "kl_base_policy", base, policy)
        numbers += likelihoods.divergence(run, "kl_policy_base", policy, base)
    if settings.win_rate and run.iteration > 0:
        numbers += outputs.win_rates(run, texts)
    cost = meter.cost(done.work, run.config.precision)
    folder.finish(
        shards=done.shards, count=len(found), cost=cost, metrics=run.summarise("evaluate", numbers)
    )
