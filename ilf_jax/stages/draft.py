"""Draft: x0 ~ pi_theta(. | c), or the draft that the data recorded."""

from collections.abc import Callable

from ilf_jax.config import Config
from ilf_jax.evaluation import statistics
from ilf_jax.inference.generation import Generator
from ilf_jax.records import Draft, Example
from ilf_jax.runtime import performance
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import context as run_lib


def uses_recorded(config: Config) -> bool:
    """Whether drafts come from the data: always where the feedback on them does."""
    if config.draft.source == "auto":
        return config.feedback.source == "recorded"
    return config.draft.source == "recorded"


def run(run: run_lib.Run) -> None:
    """Writes a Draft for each example of the iteration."""
    folder, settings, meter = run.folder("draft"), run.config.draft, performance.Meter()
    folder.begin()
    if uses_recorded(run.config):
        folder.write_shard(0, 1, [Draft(e.id, e.draft, "recorded") for e in run.examples])
        folder.finish(shards=1, count=len(run.examples), metrics=[], cost=meter.cost())
        return
    policy = run.roles.get("policy")
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    prompts = {e.id: policy.encode(e.id, [run.task.policy_prompt(e)], settings.max_new_tokens)[0]
               for e in run.examples}
    generator = Generator(policy, sampling, settings.max_new_tokens, settings.batch_size, run.task.stop,
                          policy.row_lengths(len(p.ids) for p in prompts.values()))

    def start(batch: list[Example]) -> Callable[[], list[Draft]]:
        keys = decode.candidate_keys(run.config.seed, run.iteration, "draft", [e.id for e in batch], [0])
        samples = generator.start([prompts[e.id] for e in batch], keys)
        return lambda: [
            Draft(e.id, run.task.postprocess(s.text), "policy", len(s.tokens), float(s.logprobs.sum()), s.stopped)
            for e, (s,) in zip(batch, samples(), strict=True)
        ]

    done = run_lib.process_shards(
        run, "draft", run.examples, [len(prompts[e.id].ids) for e in run.examples],
        settings.batch_size * settings.batches_per_shard, Draft, start,
        lambda d: generator.work(prompts[d.id], [d.num_tokens]),
    )
    drafts = done.records
    numbers = [statistics.mean("stop_rate", [d.stopped for d in drafts.values()]),
               *run.measure({i: d.text for i, d in drafts.items()})]
    cost = meter.cost(done.work, run.config.precision)
    folder.finish(shards=done.shards, count=len(drafts), cost=cost, metrics=run.summarise("draft", numbers))
