"""Feedback: f on (c, x0), from the data, a program, people, or a model that plays the critic."""

import functools
from collections.abc import Callable

from ilf_jax.feedback import human, oracle, recorded
from ilf_jax.inference.generation import Generator
from ilf_jax.records import Draft, Example, Feedback
from ilf_jax.runtime import performance
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import context as run_lib


def run(run: run_lib.Run) -> None:
    """Writes a Feedback for each example of the iteration."""
    folder, source, meter = run.folder("feedback"), run.config.feedback.source, performance.Meter()
    folder.begin()
    drafts = run.folder("draft").read(Draft)
    if source == "critic":
        _run_critic(run, drafts)
        return
    ordered = [drafts[e.id] for e in run.examples]
    give = {
        "recorded": recorded.give, "oracle": functools.partial(oracle.give, run.task),
        "human": functools.partial(human.give, folder.path),
        "none": lambda examples, _: [Feedback(e.id, "", "none") for e in examples],
    }[source]
    folder.write_shard(0, 1, give(run.examples, ordered))
    folder.finish(shards=1, count=len(ordered), metrics=[], cost=meter.cost())


def _run_critic(run: run_lib.Run, drafts: dict[str, Draft]) -> None:
    meter = performance.Meter()
    critic, settings = run.roles.get("critic"), run.config.feedback
    prompts = {
        e.id: critic.encode(e.id, [run.task.critic_prompt(e, drafts[e.id].text)], settings.max_new_tokens)[0]
        for e in run.examples
    }
    generator = Generator(critic, make_sampling(settings.temperature, 0, 1.0), settings.max_new_tokens,
                          settings.batch_size, run.task.stop,
                          critic.row_lengths(len(p.ids) for p in prompts.values()))

    def start(batch: list[Example]) -> Callable[[], list[Feedback]]:
        keys = decode.candidate_keys(run.config.seed, run.iteration, "feedback", [e.id for e in batch], [0])
        samples = generator.start([prompts[e.id] for e in batch], keys)
        return lambda: [Feedback(e.id, s.text.strip(), "critic") for e, (s,) in zip(batch, samples(), strict=True)]

    done = run_lib.process_shards(
        run, "feedback", run.examples, [len(prompts[e.id].ids) for e in run.examples],
        settings.batch_size, Feedback, start,
        lambda f: generator.work(prompts[f.id], [len(critic.tokenizer.encode(f.text)) + 1]),
    )
    cost = meter.cost(done.work, run.config.precision)
    run.folder("feedback").finish(shards=done.shards, count=len(done.records), cost=cost, metrics=[])
