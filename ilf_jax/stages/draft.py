"""Draft: x0 ~ pi_theta(. | c), or the draft that the data recorded."""

from ilf_jax.config import Config
from ilf_jax.evaluation import statistics
from ilf_jax.records import Draft, Example
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages import run as run_lib


def uses_recorded(config: Config) -> bool:
    """Whether drafts come from the data: always where the feedback on them does."""
    if config.draft.source == "auto":
        return config.feedback.source == "recorded"
    return config.draft.source == "recorded"


def run(run: run_lib.Run) -> None:
    """Writes a Draft for each example of the iteration."""
    folder, settings = run.folder("draft"), run.config.draft
    folder.begin()
    if uses_recorded(run.config):
        folder.write_shard(0, 1, [Draft(e.id, e.draft, "recorded") for e in run.examples])
        folder.finish(shards=1, count=len(run.examples), metrics=[], seconds=0.0)
        return
    policy = run.roles.get("policy")
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    prompts = {e.id: policy.encode(e.id, [run.task.policy_prompt(e)], settings.max_new_tokens)[0]
               for e in run.examples}

    def work(batch: list[Example]) -> list[Draft]:
        keys = decode.candidate_keys(run.config.seed, run.iteration, "draft", [e.id for e in batch], [0])
        samples = policy.generate(
            [prompts[e.id] for e in batch], keys, sampling, max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size, stop=run.task.stop,
        )
        return [Draft(e.id, run.task.postprocess(s.text), "policy", len(s.tokens), float(s.logprobs.sum()), s.stopped)
                for e, (s,) in zip(batch, samples, strict=True)]

    done = run_lib.process_shards(
        run, "draft", run.examples, [len(prompts[e.id].ids) for e in run.examples], settings.batch_size, Draft, work
    )
    drafts = done.records
    numbers = [statistics.mean("stop_rate", [d.stopped for d in drafts.values()]),
               *run.measure({i: d.text for i, d in drafts.items()})]
    folder.finish(shards=done.shards, count=len(drafts), seconds=done.seconds, metrics=run.summarise("draft", numbers))
