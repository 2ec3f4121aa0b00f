"""What finetuning learns from, as tokens: the texts of many targets go to the tokenizer together."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ilf_jax import config_sections
from ilf_jax.config import Config
from ilf_jax.errors import TooLongError
from ilf_jax.inference import fitting, training_texts
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.inference.look_ahead import LOOKED_AT
from ilf_jax.inference.training_texts import Texts
from ilf_jax.records import Example, Target
from ilf_jax.runtime import progress
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.task import Task
from ilf_jax.training import objectives
from ilf_jax.training.objectives import Objective, feedback_modelling
from ilf_jax.training.packing import TrainingExample

# What texts that are not written yet are taken to stand behind.
_LONGEST_CONTEXT = {"fcp": "feedback", "sdpo": "refine", "sdft": "demonstration", "feedback_modelling": "critic"}
# Targets whose texts are tokenized together, at most, and their characters: a token takes 36 bytes at first.
_BATCH, _BATCH_CHARACTERS = 512, 1 << 20
# How often an objective is asked for what it encodes next; none of ours encodes more than three times.
_ROUNDS = 4

_Wanted = tuple[str, tuple[str, ...]]
_Made = list[TrainingExample] | TooLongError


class _NotYet(BaseException):
    """An objective wants texts that have not been tokenized; no Exception, so that no objective takes it for an error.

    Attributes:
        wanted: context and texts.
    """

    def __init__(self, wanted: _Wanted) -> None:
        super().__init__()
        self.wanted = wanted


def encode_target(
    settings: config_sections.Finetune, task: Task, lm: LanguageModel, example: Example, target: Target | str
) -> TrainingExample:
    """Token ids and loss weights of one target; a document that leaves no room is shortened, the text never.

    Args:
        settings: config.finetune.
        task: gives the prompt.
        lm: whose tokens and template.
        example: the document.
        target: what it teaches, or a text to imitate.

    Raises:
        TooLongError: prompt and text do not fit into config.finetune.max_length even so.
    """
    if isinstance(target, str):  # nothing is written yet: all texts are as long
        target = Target(example.id, task.policy_prompt(example).text, target, settings.target, rejected=target,
                        context=_LONGEST_CONTEXT.get(settings.objective, "policy"), draft=target, feedback=target,
                        refinement=target, advantage=0.0)
    (made,) = encode_batch(settings, task, lm, [(example, target)])
    if isinstance(made, TooLongError):
        raise made
    return made


def encode_batch(
    settings: config_sections.Finetune, task: Task, lm: LanguageModel, batch: Sequence[tuple[Example, Target]]
) -> list[TrainingExample | TooLongError]:
    """`encode_target` of each (document, target); what it would raise stands in the place of what it would return.

    An objective asks for one thing after another and needs an answer before it goes on. So it starts over each time:
    with what it has asked for so far, which has been tokenized together with what it asked for about other documents.
    """
    cls = objectives.by_choice(settings.objective)
    encoders = [_Encoder(settings, task, lm, example, target) for example, target in batch]
    made: dict[int, TrainingExample | TooLongError] = {}
    for _ in range(_ROUNDS):
        wanted: dict[int, _Wanted] = {}
        for i, encoder in enumerate(encoders):
            if i in made:
                continue
            try:
                made[i] = encoder.training_example(cls)
            except TooLongError as e:
                made[i] = e
            except _NotYet as e:
                wanted[i] = e.wanted
        if not wanted:
            break
        texts = [encoders[i].texts(of_target) for i, of_target in wanted.items()]
        tokenized = training_texts.encode_batch(lm, texts, "finetune", settings)
        for (i, of_target), rows in zip(wanted.items(), tokenized, strict=True):
            encoders[i].known[of_target] = rows
    for i in (i for i in range(len(batch)) if i not in made):
        encoders[i].waits = False
        try:
            made[i] = encoders[i].training_example(cls)
        except TooLongError as e:
            made[i] = e
    return [made[i] for i in range(len(batch))]


@dataclasses.dataclass
class _Encoder:
    """The `Encode` of one target.

    Attributes:
        waits: raise _NotYet for what has not been tokenized; else tokenize it at once.
        known: what has been tokenized: texts behind a context.
    """

    settings: config_sections.Finetune
    task: Task
    lm: LanguageModel
    example: Example
    target: Target
    waits: bool = True
    known: dict[_Wanted, _Made] = dataclasses.field(default_factory=dict)

    def training_example(self, objective: type[Objective]) -> TrainingExample:
        """What the target teaches under an objective."""
        target = self.target
        made = objective.training_example(target, self)
        if self.settings.feedback_weight and target.feedback.strip() and target.draft.strip():
            (of_feedback,) = self([target.feedback], "critic")
            made = dataclasses.replace(made, beside={**made.beside, feedback_modelling.BESIDE: of_feedback})
        return dataclasses.replace(made, document=self.example.document)

    def __call__(self, texts: Sequence[str], context: str = "policy") -> list[TrainingExample]:
        wanted = context, tuple(texts)
        if wanted not in self.known:
            if self.waits:
                raise _NotYet(wanted)
            return training_texts.encode_texts(self.lm, self.texts(wanted), "finetune", self.settings)
        made = self.known[wanted]
        if isinstance(made, TooLongError):
            raise made
        return list(made)

    def texts(self, wanted: _Wanted) -> Texts:
        """What is wanted, behind its prompt."""
        context, texts = wanted
        weight = self.settings.prompt_loss_weight if context == "policy" else 0.0
        return Texts(self.example.id, self._prompt(context), texts, weight)

    def _prompt(self, context: str) -> Prompt:
        task, example, target = self.task, self.example, self.target
        return {"policy": lambda: task.policy_prompt(example),
                "feedback": lambda: task.conditioned_prompt(example, target.feedback),
                "demonstration": lambda: task.demonstrated_prompt(example, target.refinement),
                "refine": lambda: task.refine_prompt(example, target.draft, target.feedback),
                "critic": lambda: task.critic_prompt(example, target.draft)}[context]()


def encode_all(
    config: Config, task: Task, lm: LanguageModel, iteration: int, by_id: Mapping[str, Example],
    targets: Sequence[Target],
) -> tuple[list[Target], list[TrainingExample], int]:
    """The targets that fit into config.finetune.max_length, as tokens; and how many did not.

    Args:
        config: of the run.
        task: gives the prompts.
        lm: whose tokens and template.
        iteration: for messages.
        by_id: the documents.
        targets: what they teach. Some are left out, or cut, if config.data.too_long says so.

    Raises:
        TooLongError: one does not fit, and config.data.too_long='stop'; or none fits.
    """
    settings, policy = config.finetune, config.data.too_long
    kept: list[Target] = []
    examples: list[TrainingExample] = []
    reasons: list[str] = []
    for batch in _shown(iteration, targets):
        tokenized = encode_batch(settings, task, lm, [(by_id[target.id], target) for target in batch])
        for target, made in zip(batch, tokenized, strict=True):
            if not isinstance(made, TooLongError):
                kept.append(target)
                examples.append(made)
                continue
            if policy == "stop":
                raise TooLongError(
                    f"{made}. To go on from here, raise config.finetune.max_length, or set config.data.too_long to "
                    "'skip' or 'truncate', with --allow_change=finetune,data.too_long") from made
            reasons.append(str(made))
            if policy == "truncate":
                shorter = _cut(settings, task, lm, by_id[target.id], target)
                if shorter is not None:
                    kept.append(shorter[0])
                    examples.append(shorter[1])
    if not kept:
        raise TooLongError(f"iteration {iteration}: no text to imitate fits, the first: {reasons[0]}")
    if reasons:
        progress.log(f"{len(reasons)} of {len(targets)} texts to imitate are too long; {len(targets) - len(kept)} are "
                     f"left out, the others cut; the first: {reasons[0]}")
    return kept, examples, len(reasons)


def _shown(iteration: int, targets: Sequence[Target]) -> Iterator[Sequence[Target]]:
    """The targets in batches; of many it is shown how far this has come, for all come before the first step."""
    if len(targets) <= LOOKED_AT:
        yield from _batches(targets)
        return
    with progress.Progress(f"finetune {iteration}, tokens", len(targets), "texts") as bar:
        for batch in _batches(targets):
            yield batch
            bar.advance(len(batch))


def _batches(targets: Sequence[Target]) -> Iterator[Sequence[Target]]:
    start = characters = 0
    for i, target in enumerate(targets):
        characters += len(target.prompt) + len(target.completion)
        if characters >= _BATCH_CHARACTERS or i + 1 - start == _BATCH:
            yield targets[start : i + 1]
            start, characters = i + 1, 0
    if start < len(targets):
        yield targets[start:]


def _cut(
    settings: config_sections.Finetune, task: Task, lm: LanguageModel, example: Example, target: Target
) -> tuple[Target, TrainingExample] | None:
    """The target with the longest beginning of its text that fits, also as tokens; None if none fits."""

    def fits(text: str) -> bool:
        try:
            encode_target(settings, task, lm, example, dataclasses.replace(target, completion=text))
        except TooLongError:
            return False
        return True

    text = fitting.longest_that(fits, target.completion)
    if not text.strip():
        return None
    shorter = dataclasses.replace(target, completion=text)
    return shorter, encode_target(settings, task, lm, example, shorter)
