"""Finetune: maximise log pi_theta(x1 | c) over the picked texts, or another objective on the iteration's records."""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ilf_jax import config as config_lib
from ilf_jax import config_sections
from ilf_jax.errors import InputError
from ilf_jax.evaluation import statistics
from ilf_jax.inference import likelihoods, target_tokens, trained_model
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.models import checkpoint_io
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored, Target
from ilf_jax.runtime import garbage, manifests, performance, progress, storage
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.stage_folder import StageFolder
from ilf_jax.stages import context as context_lib
from ilf_jax.stages.context import Outcome, Records, StageContext
from ilf_jax.training import loop, objectives, packing, reference_logprobs
from ilf_jax.training.objectives import LearnedFrom

_FROM_DATA = ("reference", "human_refinement")
_PICKED = ("refinement", "feedback_refinement")
# Key of the manifest while the stage is under way.
_NOTED = "teach_less"


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
        folder.verify()
        loop.delete_states(folder.path)  # the process may have been killed before it did
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
    learned_from = history if settings.data == "cumulative" else history[-1:]
    start = "policy" if settings.init == "previous" else "base"
    lm = context.roles.without_params(start)
    by_id = {e.id: e for records in learned_from for e in records.examples}
    targets, examples, noted = _learned(context, lm, learned_from, by_id, folder)
    metrics = []
    if config.evaluate.target_nll:
        texts = [(by_id[t.id], t.completion) for t in targets]
        # Unless training starts from it, the base model is not held beside the optimizer's state.
        base = context.roles.get("base", hold=start == "base")
        metrics.append(likelihoods.nll(context.task.policy_prompt, base, "target_nll_before_training", texts))
        del base
    trained = train(context, start, examples)
    checkpoint = context.workdir.checkpoint(context.iteration)
    replaced = context.workdir.checkpoint(context.iteration - 1) if context.iteration > 1 else None
    saved = trained_model.save(context.roles, checkpoint, lm, trained.params, replaced)
    metrics = [
        statistics.plain("loss", trained.loss), statistics.plain("steps", trained.steps),
        statistics.plain("examples", len(targets)),
        statistics.plain("target_tokens", sum(e.num_targets for e in examples)),
        statistics.plain("tokens_trained", trained.tokens), *metrics,
        *(statistics.plain(name, count) for name, count in noted.items()),
    ]
    cost = meter.cost(trained.work, config.precision)

    outcome = Outcome(1, len(targets), metrics, facts={manifests.STEPS_DIGEST: trained.log_digest})

    def complete(_: None) -> None:
        context_lib.finish(context, folder, meter, outcome, cost)
        loop.delete_states(folder.path)
        context.workdir.write_metrics()

    return saved.map(complete)


@garbage.seldom_searched_for()
def _learned(
    context: StageContext, lm: LanguageModel, learned_from: Sequence[IterationRecords], by_id: Mapping[str, Example],
    folder: StageFolder,
) -> tuple[list[Target], list[packing.TrainingExample], dict[str, int]]:
    """The stage's targets, written to its folder; their tokens; and by name how many documents teach nothing or less.

    A resumed run takes the targets that it finds written, and does not read the records that they came from.
    """
    encode = functools.partial(target_tokens.encode_all, context.config, context.task, lm, context.iteration)
    noted = folder.manifest().get(_NOTED)
    if noted is not None and not folder.missing_shards(1):
        targets = folder.read_shard(Target, 0, 1)
        return targets, encode(by_id, targets)[1], noted
    documents = itertools.chain.from_iterable(_learned_from(context, records) for records in learned_from)
    targets, counts = _targets(context.config.finetune, documents)
    for name, count in counts.items():
        progress.log(f"finetune {context.iteration}: {count} documents: {name.replace('_', ' ')}")
    if not targets:
        raise InputError(f"iteration {context.iteration}: every text to imitate is empty, there is nothing to learn "
                         "from")
    targets, examples, num_too_long = encode(by_id, targets)
    if num_too_long:
        counts["too_long"] = num_too_long
    folder.begin(**{_NOTED: counts})  # only now, so that what stops the run above can be mended by --allow_change
    folder.write_shard(0, 1, targets)
    return targets, examples, counts


def _targets(
    settings: config_sections.Finetune, documents: Iterable[LearnedFrom]
) -> tuple[list[Target], dict[str, int]]:
    """What the documents teach; and by name how many teach nothing or less, see `Objective.counted`."""
    cls = objectives.by_choice(settings.objective)
    targets: list[Target] = []
    counts: collections.Counter[str] = collections.Counter()
    for document in documents:
        of_document = cls.targets(document, settings)
        counts.update(filter(None, [cls.counted(document, settings)]))
        if of_document and settings.feedback_weight and document.draft is not None and document.feedback is not None:
            # Beside the first of them only: the feedback on a document is learned once.
            of_document[0] = dataclasses.replace(
                of_document[0], draft=document.draft.text, feedback=document.feedback.text)
        targets += of_document
    return targets, dict(counts)


def train(context: StageContext, start: str, examples: Sequence[packing.TrainingExample]) -> loop.Trained:
    """Trains from the params of `start` ("policy" or "base"), see `loop.train`."""
    config, settings, lm = context.config, context.config.finetune, context.roles.without_params(start)
    folder = context.folder("finetune").path
    objective = objectives.make(lm.architecture, lm.compute, settings)
    trainer = loop.Trainer(
        section="finetune", settings=settings, placement=lm.placement, compute=lm.compute, seed=config.seed,
        iteration=context.iteration, folder=folder, checkpointing=config.checkpoint,
        profile=performance.Profile(context.workdir.path / "profile", context.profiled_steps),
        on_step=context.workdir.on_step("finetune", context.iteration))
    if objective.reference == "logprobs":
        examples = _with_reference_logprobs(context, start, folder, examples)
    return loop.train(trainer, objective, functools.partial(context.roles.take, start), examples)


def _with_reference_logprobs(
    context: StageContext, start: str, folder: storage.Path, examples: Sequence[packing.TrainingExample]
) -> list[packing.TrainingExample]:
    """The examples with their log-probabilities under the params that training starts from ("policy" or "base").

    They are kept with the stage's records, so that a resumed run has the same.
    """

    def compute_all() -> list[np.ndarray]:
        lm = context.roles.get(start)
        return reference_logprobs.compute(
            lm.architecture, lm.params, examples, placement=lm.placement, options=lm.compute,
            batch_size=context.config.finetune.batch_size)

    return reference_logprobs.attach(folder / "reference_logprobs.jsonl", examples, compute_all)


def check(config: config_lib.Config) -> None:
    """Raises InputError if config.finetune does not fit together, or asks for what the policy does not have.

    Reads the checkpoint's header only.
    """
    model = checkpoint_io.read_config(config.policy.checkpoint)
    if config.iterations:
        objectives.by_choice(config.finetune.objective).check(config, model)
    if config.finetune.objective == "weighted" and config.finetune.target != "refinement":
        raise InputError("config.finetune.objective='weighted' weighs all refinements; "
                         f"it does not go with config.finetune.target={config.finetune.target!r}")
    loop.check("finetune", config.finetune, model)


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


def _learned_from(context: StageContext, records: IterationRecords) -> Iterator[LearnedFrom]:
    """What an iteration recorded about each of its documents, and the text that config.finetune.target picks.

    Of refinements it picks the reviewer's, where there is one; a document that has one is learned from also if it was
    too long for the judge.
    """
    target, task = context.config.finetune.target, context.task
    drafts, feedback = records.drafts.by_id(), records.feedback.by_id()
    candidates, scored = records.candidates.by_id(), records.scored.by_id()
    for e in records.examples:
        overruled_by = scored[e.id].overruled_by if scored and target in _PICKED else ""
        if scored and not context_lib.judged(context.config, scored[e.id]) and not overruled_by:
            continue
        if target in _FROM_DATA:
            text = getattr(e, target)
        elif target == "initial":
            text = drafts[e.id].text
        else:
            text = (feedback[e.id].refinement if overruled_by else
                    candidates[e.id].texts[scored[e.id].picks.get(target, scored[e.id].chosen)])
            if target == "feedback_refinement" and text.strip():
                text = task.join_feedback(feedback[e.id].text, text)
        usable = tuple(task.is_usable(e, text) for text in candidates[e.id].texts) if candidates else ()
        yield LearnedFrom(
            example=e, prompt=task.policy_prompt(e).text, text=text,
            source=f"{target}: {overruled_by}" if overruled_by else target, draft=drafts.get(e.id),
            feedback=feedback.get(e.id), candidates=candidates.get(e.id), scored=scored.get(e.id), usable=usable,
            overruled=bool(overruled_by),
            feedback_prompt=task.conditioned_prompt(e, feedback[e.id].text).text if feedback else "")
