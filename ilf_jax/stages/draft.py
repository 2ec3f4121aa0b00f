"""Draft: x0 ~ pi_theta(. | c), or the draft that the data recorded."""

import functools

from ilf_jax.evaluation import statistics
from ilf_jax.inference.generation import Generator, prompt_lengths
from ilf_jax.inference.policy_outputs import policy_prompt, prompts_of
from ilf_jax.models import padding
from ilf_jax.records import Draft, Example
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.sampling import decode
from ilf_jax.sampling.logits import make_sampling
from ilf_jax.stages.context import Outcome, Records, StageContext, process_shards, run_stage, uses_recorded_drafts


def draft(context: StageContext) -> Records[Draft]:
    """A Draft for each document of the iteration."""
    return run_stage(context, "draft", Draft, functools.partial(_draft, context))


def _draft(context: StageContext, folder: StageFolder) -> Outcome:
    config, settings, examples, task = context.config, context.config.draft, context.examples, context.task
    if uses_recorded_drafts(config):
        folder.write_shard(0, 1, [Draft(e.id, e.draft, "recorded") for e in examples])
        return Outcome(shards=1, count=len(examples))
    policy = context.roles.get("policy")
    prompts = prompts_of(policy, policy_prompt(task, config, context.iteration > 1), examples, settings.max_new_tokens)
    sampling = make_sampling(settings.temperature, settings.top_k, settings.top_p)
    refills = settings.batches_per_shard > 1
    batch_size = padding.batch_size(settings.batch_size, len(examples), refills=refills)
    generator = Generator(policy, sampling, settings.max_new_tokens, batch_size, task.stop,
                          prompt_lengths(policy, prompts, f"draft {context.iteration}", refills=refills), refills)

    def start(batch: list[Example]) -> Pending[list[Draft]]:
        keys = decode.candidate_keys(config.seed, context.iteration, "draft", [e.id for e in batch], [0])
        return generator.start([prompts.encoded(e) for e in batch], keys).map(lambda samples: [
            Draft(e.id, task.read_output(s.text), "policy", len(s.tokens), float(s.logprobs.sum()), s.stopped)
            for e, (s,) in zip(batch, samples, strict=True)])

    done = process_shards(
        context, folder, examples, prompts.lengths, cls=Draft, start=start,
        shard_size=batch_size * settings.batches_per_shard,
        work=lambda d: generator.work(prompts.num_tokens(d.id), [d.num_tokens]))
    drafts = done.records
    metrics = [statistics.mean("stop_rate", [d.stopped for d in drafts.values()]),
               *context.measure({i: d.text for i, d in drafts.items()})]
    return Outcome(done.shards, len(drafts), metrics, done.work)
