"""Feedback: f on (c, x0), from the data, a program, or a model that plays the critic."""

from ilf_jax.feedback import oracle, recorded
from ilf_jax.records import Draft, Example, Feedback
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import run as run_lib


def run(run: run_lib.Run) -> None:
    """Writes a Feedback for each example of the iteration."""
    folder, source = run.folder("feedback"), run.config.feedback.source
    folder.begin()
    drafts = run.folder("draft").read(Draft)
    if source == "critic":
        _run_critic(run, drafts)
        return
    ordered = [drafts[e.id] for e in run.examples]
    give = recorded.give if source == "recorded" else lambda e, d: oracle.give(run.task, e, d)
    folder.write_shard(0, 1, give(run.examples, ordered))
    folder.finish(shards=1, count=len(ordered), metrics=[], seconds=0.0)


def _run_critic(run: run_lib.Run, drafts: dict[str, Draft]) -> None:
    critic, settings = run.roles.get("critic"), run.config.feedback
    sampling = make_sampling(settings.temperature, 0, 1.0)
    prompts = {
        e.id: critic.encode(e.id, [run.task.critic_prompt(e, drafts[e.id].text)], settings.max_new_tokens)[0]
        for e in run.examples
    }

    def work(batch: list[Example]) -> list[Feedback]:
        keys = decode.candidate_keys(run.config.seed, run.iteration, "feedback", [e.id for e in batch], [0])
        samples = critic.generate(
            [prompts[e.id] for e in batch], keys, sampling, max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size, stop=run.task.stop,
        )
        return [Feedback(e.id, s.text.strip(), "critic") for e, (s,) in zip(batch, samples, strict=True)]

    done = run_lib.process_shards(
        run, "feedback", run.examples, [len(prompts[e.id].ids) for e in run.examples], settings.batch_size, Feedback,
        work,
    )
    run.folder("feedback").finish(shards=done.shards, count=len(done.records), seconds=done.seconds, metrics=[])
