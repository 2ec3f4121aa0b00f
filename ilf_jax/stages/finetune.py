"""Finetune: maximise log pi_theta(x1 | c) over the picked texts, or another objective on the iteration's records."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError
from ilf_jax.evaluation import statistics
from ilf_jax.inference import likelihoods, model_pool
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored, Target
from ilf_jax.runtime import performance
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.workdir import StageFolder
from ilf_jax.scoring import selection
from ilf_jax.stages import context as context_lib
from ilf_jax.stages.context import Outcome, Records, StageContext
from ilf_jax.tasks.task import Task
from ilf_jax.training import loop, objectives, packing

_FROM_DATA = ("reference", "human_refinement")


@dataclasses.dataclass(frozen=True)
class IterationRecords:
    """What an iteration's stages wrote about its documents."""

    examples: tuple[Example, ...]
    drafts: Records[Draft]
    feedback: Records[Feedback]
    candidates: Records[Candidates]
    scored: Records[Scored]


@contextlib.contextmanager
def finetune(context: StageContext, history: Sequence[IterationRecords]) -> Iterator[Pending[None]]:
    """Trains the policy on what the iterations so far have written.

    Args:
        history: records of iterations 1 to this one.

    Yields:
        The checkpoint, which may still be being written; waiting for it completes the stage. It is complete when this
        context is left. The stage's cost does not include that wait: the stage that waits counts it.
    """
    folder = context.folder("finetune")
    if folder.complete:
        loop.tidy(context, "finetune")  # the process may have been killed before it did
        yield Pending.ready(None)
        return
    checkpoint = _finetune(context, history, folder)
    try:
        yield checkpoint
    except (InputError, KeyboardInterrupt, SystemExit):  # after other errors not all processes may get here
        checkpoint.result()
        raise
    checkpoint.result()


def _finetune(context: StageContext, history: Sequence[IterationRecords], folder: StageFolder) -> Pending[None]:
    config, settings, meter = context.config, context.config.finetune, performance.Meter()
    folder.begin()
    learned = history if settings.data == "cumulative" else history[-1:]
    targets = [target for records in learned for target in _targets(context, records)]
    if not targets:
        raise InputError(f"iteration {context.iteration}: every text to imitate is empty, there is nothing to learn "
                         "from")
    folder.write_shard(0, 1, targets)
    part = "policy" if settings.init == "previous" else "base"
    lm = context.roles.without_params(part)
    by_id = {e.id: e for records in learned for e in records.examples}
    examples = [training_example(settings, context.task, lm, by_id[t.id], t.completion, t.weight) for t in targets]
    metrics = []
    if config.evaluate.target_nll:
        texts = [(by_id[t.id], t.completion) for t in targets]
        # Unless training starts from it, the base model is not held beside the optimizer's state.
        base = context.roles.get("base", hold=part == "base")
        metrics.append(likelihoods.nll(context.task, base, "target_nll_before_training", texts))
        del base
    trained = train(context, part, examples)
    checkpoint = context.workdir.checkpoint(context.iteration)
    replaced = context.workdir.checkpoint(context.iteration - 1) if context.iteration > 1 else None
    saved = loop.save_model(context, checkpoint, lm, trained.params, replaced)
    metrics = [
        statistics.plain("loss", trained.loss), statistics.plain("steps", trained.steps),
        statistics.plain("examples", len(targets)),
        statistics.plain("target_tokens", sum(e.num_targets for e in examples)), *metrics,
    ]
    cost = meter.cost(trained.work, config.precision)

    def complete(_: None) -> None:
        context_lib.finish(context, folder, meter, Outcome(1, len(targets), metrics), cost)
        loop.tidy(context, "finetune")
        context.workdir.write_metrics()

    return saved.map(complete)


def check(config: config_lib.Config) -> None:
    """Raises InputError if config.finetune does not fit together, or asks for what the policy does not have.

    Reads the checkpoint's header only.
    """
    if config.finetune.objective == "weighted" and config.finetune.target != "refinement":
        raise InputError("config.finetune.objective='weighted' weighs all refinements; "
                         f"it does not go with config.finetune.target={config.finetune.target!r}")
    loop.check("finetune", config.finetune, model_pool.read_model_config(config.policy.checkpoint))


def check_documents(config: config_lib.Config, examples: Sequence[Example]) -> None:
    """Raises InputError if the texts to imitate come from a data field that an example lacks."""
    field = config.finetune.target
    if field not in _FROM_DATA:
        return
    for example in examples:
        if not getattr(example, field).strip():
            raise InputError(f"config.finetune.target={field!r}, but document {example.id!r} has none; map it by "
                             f"config.data.fields.{field}, or leave such rows out by "
                             f"config.data.skip_empty=({field!r},)")


def _targets(context: StageContext, records: IterationRecords) -> list[Target]:
    """What an iteration's documents teach, in their order. An empty text teaches nothing and is left out."""
    if context.config.finetune.objective == "weighted":
        return _weighted(context, records)
    texts = _texts(context, records)
    return [Target(e.id, context.task.policy_prompt(e).text, texts[e.id], context.config.finetune.target)
            for e in records.examples if texts[e.id].strip()]


def _weighted(context: StageContext, records: IterationRecords) -> list[Target]:
    """All candidates of each example; their weights sum to 1."""
    candidates, scored = records.candidates.by_id(), records.scored.by_id()
    targets = []
    for e in records.examples:
        texts = candidates[e.id].texts
        usable = np.array([[context.task.is_usable(e, text) for text in texts]])
        weights = selection.posterior_weights(
            np.array([scored[e.id].scores]), usable, context.config.finetune.beta)[0]
        prompt = context.task.policy_prompt(e).text
        targets += [Target(e.id, prompt, text, "refinement", float(weight))
                    for text, weight in zip(texts, weights, strict=True) if text.strip() and weight > 0]
    return targets


def _texts(context: StageContext, records: IterationRecords) -> dict[str, str]:
    """The text that config.finetune.target picks for each document, by id."""
    target = context.config.finetune.target
    if target in _FROM_DATA:
        return {e.id: getattr(e, target) for e in records.examples}
    if target == "initial":
        return {i: d.text for i, d in records.drafts.by_id().items()}
    index = {i: s.picks.get(target, s.chosen) for i, s in records.scored.by_id().items()}
    texts = {i: c.texts[index[i]] for i, c in records.candidates.by_id().items()}
    if target == "feedback_refinement":
        feedback = records.feedback.by_id()
        return {i: context.task.join_feedback(feedback[i].text, text) if text.strip() else ""
                for i, text in texts.items()}
    return texts


def train(context: StageContext, part: str, examples: Sequence[packing.TrainingExample]) -> loop.Trained:
    """Trains from the params of `part` ("policy" or "base"), see `loop.train`."""
    lm, settings = context.roles.without_params(part), context.config.finetune
    objective = objectives.NextTokenLoss(lm.architecture, lm.compute, settings.remat)
    return loop.train(context, "finetune", settings, part, lm, objective, examples)


def training_example(
    settings: config_lib.Finetune, task: Task, lm: LanguageModel, example: Example, completion: str,
    weight: float = 1.0,
) -> packing.TrainingExample:
    """Token ids and loss weights of one pair; a document that leaves no room is shortened, the completion never.

    Args:
        settings: of finetuning.
        lm: whose tokenizer and context it is.
        completion: the text to imitate.
        weight: of the pair's loss.

    Raises:
        InputError: prompt and completion do not fit into config.finetune.max_length even so.
    """
    limit = min(settings.max_length, lm.architecture.max_positions)
    room = len(lm.tokenizer.encode(completion)) + 2
    while True:
        prompt = loop.encode_prompt(lm, example.id, task.policy_prompt(example), room, "finetune", settings)
        made = packing.training_example(
            prompt.ids, lm.continuation(prompt, completion), lm.end_id, prompt_weight=settings.prompt_loss_weight,
            scale=weight)
        if len(made) <= limit:
            return made
        room += len(made) - limit  # the completion took more tokens behind its prompt than by itself
