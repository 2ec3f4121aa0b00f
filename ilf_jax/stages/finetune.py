"""Finetune: maximise log pi_theta(x1 | c) over the picked texts, or another objective on the iteration's records."""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ilf_jax import config as config_lib
from ilf_jax import config_sections
from ilf_jax.errors import InputError, TooLongError
from ilf_jax.evaluation import statistics
from ilf_jax.inference import fitting, likelihoods, trained_model, training_texts
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.look_ahead import LOOKED_AT
from ilf_jax.models import checkpoint_io
from ilf_jax.records import Candidates, Draft, Example, Feedback, Scored, Target
from ilf_jax.runtime import manifests, performance, progress, storage
from ilf_jax.runtime.pending import Pending
from ilf_jax.runtime.workdir import StageFolder
from ilf_jax.stages import context as context_lib
from ilf_jax.stages.context import Outcome, Records, StageContext
from ilf_jax.tasks.task import Task
from ilf_jax.training import loop, objectives, packing, reference_logprobs
from ilf_jax.training.objectives import LearnedFrom, feedback_modelling

_FROM_DATA = ("reference", "human_refinement")
# What texts that are not written yet are taken to stand behind.
_LONGEST_CONTEXT = {"fcp": "feedback", "sdpo": "refine", "sdft": "demonstration", "feedback_modelling": "critic"}


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
    targets, counts = _targets(settings, [d for records in learned_from for d in _learned_from(context, records)])
    for name, count in counts.items():
        progress.log(f"finetune {context.iteration}: {count} documents: {name.replace('_', ' ')}")
    if not targets:
        raise InputError(f"iteration {context.iteration}: every text to imitate is empty, there is nothing to learn "
                         "from")
    start = "policy" if settings.init == "previous" else "base"
    lm = context.roles.without_params(start)
    by_id = {e.id: e for records in learned_from for e in records.examples}
    targets, examples, num_too_long = _encoded(context, lm, by_id, targets)
    folder.begin()  # only now, so that what stops the run above can be mended by --allow_change=finetune
    folder.write_shard(0, 1, targets)
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
        *(statistics.plain(name, count) for name, count in counts.items()),
        *([statistics.plain("too_long", num_too_long)] if num_too_long else []),
    ]
    cost = meter.cost(trained.work, config.precision)

    outcome = Outcome(1, len(targets), metrics, facts={manifests.STEPS_DIGEST: trained.log_digest})

    def complete(_: None) -> None:
        context_lib.finish(context, folder, meter, outcome, cost)
        loop.delete_states(folder.path)
        context.workdir.write_metrics()

    return saved.map(complete)


def _targets(
    settings: config_sections.Finetune, documents: Sequence[LearnedFrom]
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


def _encoded(
    context: StageContext, lm: LanguageModel, by_id: Mapping[str, Example], targets: Sequence[Target]
) -> tuple[list[Target], list[packing.TrainingExample], int]:
    """The targets that fit into config.finetune.max_length, as tokens; and how many did not.

    Raises:
        TooLongError: one does not fit, and config.data.too_long='stop'; or none fits.
    """
    settings, policy = context.config.finetune, context.config.data.too_long
    kept, examples, reasons = [], [], []
    for target in _shown(context, targets):
        example, encode = by_id[target.id], functools.partial(encode_target, settings, context.task, lm)
        try:
            made = encode(example, target)
        except TooLongError as e:
            if policy == "stop":
                raise TooLongError(
                    f"{e}. To go on from here, raise config.finetune.max_length, or set config.data.too_long to 'skip' "
                    "or 'truncate', with --allow_change=finetune,data.too_long") from e
            reasons.append(str(e))
            shorter = _cut(encode, example, target) if policy == "truncate" else None
            if shorter is None:
                continue
            target, made = shorter
        kept.append(target)
        examples.append(made)
    if not kept:
        raise TooLongError(f"iteration {context.iteration}: no text to imitate fits, the first: {reasons[0]}")
    if reasons:
        progress.log(f"{len(reasons)} of {len(targets)} texts to imitate are too long; {len(targets) - len(kept)} are "
                     f"left out, the others cut; the first: {reasons[0]}")
    return kept, examples, len(reasons)


def _shown(context: StageContext, targets: Sequence[Target]) -> Iterator[Target]:
    """The targets; of many it is shown how far this has come, for all are put into tokens before the first step."""
    if len(targets) <= LOOKED_AT:
        yield from targets
        return
    with progress.Progress(f"finetune {context.iteration}, tokens", len(targets), "texts") as bar:
        for start in range(0, len(targets), LOOKED_AT):
            part = targets[start : start + LOOKED_AT]
            yield from part
            bar.advance(len(part))


def _cut(
    encode: Callable[[Example, Target], packing.TrainingExample], example: Example, target: Target
) -> tuple[Target, packing.TrainingExample] | None:
    """The target with the longest beginning of its text that fits, also as tokens; None if none fits."""

    def fits(text: str) -> bool:
        try:
            encode(example, dataclasses.replace(target, completion=text))
        except TooLongError:
            return False
        return True

    text = fitting.longest_that(fits, target.completion)
    if not text.strip():
        return None
    shorter = dataclasses.replace(target, completion=text)
    return shorter, encode(example, shorter)


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


def _learned_from(context: StageContext, records: IterationRecords) -> list[LearnedFrom]:
    """What an iteration recorded about each of its documents, and the text that config.finetune.target picks."""
    target, task = context.config.finetune.target, context.task
    drafts, feedback = records.drafts.by_id(), records.feedback.by_id()
    candidates, scored = records.candidates.by_id(), records.scored.by_id()
    documents = []
    for e in records.examples:
        if scored and not context_lib.judged(context.config, scored[e.id]):
            continue
        if target in _FROM_DATA:
            text = getattr(e, target)
        elif target == "initial":
            text = drafts[e.id].text
        else:
            text = candidates[e.id].texts[scored[e.id].picks.get(target, scored[e.id].chosen)]
            if target == "feedback_refinement" and text.strip():
                text = task.join_feedback(feedback[e.id].text, text)
        usable = tuple(task.is_usable(e, text) for text in candidates[e.id].texts) if candidates else ()
        documents.append(LearnedFrom(
            example=e, prompt=task.policy_prompt(e).text, text=text, source=target, draft=drafts.get(e.id),
            feedback=feedback.get(e.id), candidates=candidates.get(e.id), scored=scored.get(e.id), usable=usable,
            feedback_prompt=task.conditioned_prompt(e, feedback[e.id].text).text if feedback else ""))
    return documents


def encode_target(
    settings: config_sections.Finetune, task: Task, lm: LanguageModel, example: Example, target: Target | str
) -> packing.TrainingExample:
    """Token ids and loss weights of one target; a document that leaves no room is shortened, the text never.

    Args:
        settings: config.finetune.
        task: gives the prompt.
        lm: whose tokens and template.
        example: the document.
        target: what it teaches, or a text to imitate.

    Raises:
        InputError: prompt and text do not fit into config.finetune.max_length even so.
    """
    if isinstance(target, str):  # nothing is written yet: all texts are as long
        target = Target(example.id, task.policy_prompt(example).text, target, settings.target, rejected=target,
                        context=_LONGEST_CONTEXT.get(settings.objective, "policy"), draft=target, feedback=target,
                        refinement=target, advantage=0.0)
    given = target

    def encode(texts: Sequence[str], context: str = "policy") -> list[packing.TrainingExample]:
        prompt = {"policy": lambda: task.policy_prompt(example),
                  "feedback": lambda: task.conditioned_prompt(example, given.feedback),
                  "demonstration": lambda: task.demonstrated_prompt(example, given.refinement),
                  "refine": lambda: task.refine_prompt(example, given.draft, given.feedback),
                  "critic": lambda: task.critic_prompt(example, given.draft)}[context]()
        weight = settings.prompt_loss_weight if context == "policy" else 0.0
        return training_texts.encode_texts(lm, example.id, prompt, texts, "finetune", settings, weight)

    made = objectives.by_choice(settings.objective).training_example(target, encode)
    if settings.feedback_weight and target.feedback.strip() and target.draft.strip():
        (of_feedback,) = encode([target.feedback], "critic")
        made = dataclasses.replace(made, beside={**made.beside, feedback_modelling.BESIDE: of_feedback})
    return dataclasses.replace(made, document=example.document)
