"""Evaluate: what the policy writes for held-out documents, and numbers about it. Iteration 0 is before training."""

import functools
import json
from collections.abc import Sequence

from ilf_jax import records
from ilf_jax.evaluation import output_metrics, statistics
from ilf_jax.inference import likelihoods, preferences
from ilf_jax.inference.generation import Sample
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.policy_outputs import PolicyOutputs, policy_prompt
from ilf_jax.records import Example, MoreValues, Output
from ilf_jax.runtime import distributed, files
from ilf_jax.runtime.manifests import MORE_VALUES
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.sampling import decode
from ilf_jax.stages.context import Outcome, Records, StageContext, process_shards, run_stage


def evaluate(
    context: StageContext, before_training: Records[Output] | None = None, checkpoint: Pending[None] | None = None
) -> Records[Output]:
    """An Output for each held-out document.

    Args:
        before_training: the outputs of iteration 0, which win rates compare with.
        checkpoint: the policy's, which may still be being written: no record is written before it is complete.
    """
    if not context.held_out:
        return Records(Output, None)
    return run_stage(context, "evaluate", Output, functools.partial(_evaluate, context, before_training, checkpoint))


def _evaluate(
    context: StageContext, before_training: Records[Output] | None, checkpoint: Pending[None] | None,
    folder: StageFolder,
) -> Outcome:
    settings, config, examples = context.config.evaluate, context.config, context.held_out
    policy = context.roles.get("policy")
    outputs = PolicyOutputs.make(policy, context.task, config, examples, trained=context.iteration > 0,
                                 batch_size=settings.batch_size, refills=settings.batches_per_shard > 1,
                                 purpose=f"evaluate {context.iteration}")

    def start(batch: list[Example]) -> Pending[list[Output]]:
        # The same keys in every iteration: runs differ by their policy, not by luck.
        keys = decode.candidate_keys(config.seed, 0, "evaluate", [e.id for e in batch], [0])
        return outputs.start(batch, keys).map(lambda samples: [
            _output(context, e, outputs.text(s.text), s) for e, (s,) in zip(batch, samples, strict=True)])

    done = process_shards(
        context, folder, examples, outputs.prompts.lengths, cls=Output, start=start,
        shard_size=outputs.generator.batch_size * settings.batches_per_shard, before_writing=checkpoint,
        work=lambda o: outputs.work(o.id, [o.num_tokens]))
    rows = done.records
    texts = {i: o.text for i, o in rows.items()}
    metrics = [
        *output_metrics.output_metrics(texts, examples, context.measure, with_rouge=settings.rouge,
                                       exact_match=settings.exact_match),
        statistics.proportion("stop_rate", [o.stopped for o in rows.values()]),
        statistics.mean("mean_tokens", [o.num_tokens for o in rows.values()]),
        *_likelihoods(context, policy),
    ]
    if context.leaked:
        metrics.append(statistics.plain("held_out_in_training", context.leaked))
    if settings.win_rate and before_training is not None:
        before = {i: o.text for i, o in before_training.by_id().items()}
        metrics += preferences.win_rates(
            context.roles.judge(), context.task, examples, texts, before, config.score.batch_size)
    _note_values(folder, metrics)
    return Outcome(done.shards, len(rows), metrics, done.work)


def _note_values(folder: StageFolder, metrics: Sequence[statistics.Metric]) -> None:
    """Writes what was measured of each document after its output, if anything was. The same file on a resume."""
    by_id: dict[str, dict[str, float]] = {}
    for metric in metrics:
        for i, value in metric.by_document.items():
            by_id.setdefault(i, {})[metric.name] = value
    if by_id:
        text = "".join(json.dumps(records.to_json(MoreValues(i, of_document))) + "\n"
                       for i, of_document in by_id.items())
        distributed.on_main(lambda: files.write_lines(folder.path / MORE_VALUES, text, soon=True))


def _output(context: StageContext, example: Example, text: str, sample: Sample) -> Output:
    settings = context.config.evaluate
    values = output_metrics.values_of(example, text, context.task.measure, with_rouge=settings.rouge,
                                      exact_match=settings.exact_match)
    return Output(example.id, text, len(sample.tokens), sample.stopped, float(sample.logprobs.sum()), values)


def _likelihoods(context: StageContext, policy: LanguageModel) -> list[statistics.Metric]:
    """Likelihood of what people wrote, and the divergence from the policy before training."""
    settings, metrics = context.config.evaluate, []
    reads = policy_prompt(context.task, context.config, context.iteration > 0)
    if settings.nll:
        for field in ("reference", "human_refinement"):
            given = [(e, getattr(e, field)) for e in context.held_out if getattr(e, field)]
            metrics += [likelihoods.nll(reads, policy, f"nll_{field}", given)] if given else []
    if settings.kl and context.iteration > 0:
        base, trained = (context.roles.get("base"), context.task.policy_prompt), (policy, reads)
        for name, own, other in (("kl_base_policy", base, trained), ("kl_policy_base", trained, base)):
            metrics += likelihoods.divergence(
                name, own, other, context.held_out, seed=context.config.seed,
                iteration=context.iteration, max_new_tokens=settings.kl_max_new_tokens, batch_size=settings.batch_size)
    return metrics

