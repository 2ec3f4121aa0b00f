"""Whether the texts of the data fit into the prompts and rows that a run makes of them; found out before it begins.

Most rows need no tokenizer at all, see `text_bounds`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from ilf_jax import config as config_lib
from ilf_jax.config_sections import Training
from ilf_jax.errors import InputError, TooLongError
from ilf_jax.inference import language_model, model_pool, training_texts
from ilf_jax.inference.language_model import LanguageModel
from ilf_jax.records import Example
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.text_bounds import SLACK, num_bytes

UNWRITTEN = "x"
"""Stands for a text that a model has yet to write, at its shortest."""
# Where one row is too long, so many more are looked at to say how many are.
_COUNTED = 1000
# What may be cut of a row besides its document, in the order in which equally long texts are cut.
_CUT = ("feedback", "draft", "reference", "human_refinement", "title")


@dataclasses.dataclass(frozen=True)
class Demand:
    """Prompts about one document that a stage will put to a model, and what must fit behind them.

    Attributes:
        stage: for messages.
        role: whose prompts they are.
        prompts: of an example.
        room: tokens to keep behind them.
        writes: the model writes an output of up to `room` tokens, before which it may think.
        text: a text that stands behind the prompt and is never cut by itself.
        training: section of the config and its settings, where prompt and text are trained on.
    """

    stage: str
    role: str
    prompts: Callable[[Example], Sequence[Prompt]]
    room: int = 0
    writes: bool = False
    text: Callable[[Example], str] | None = None
    training: tuple[str, Training] | None = None

    def problem(self, model: "Model", example: Example) -> str | None:
        """Why an example is too long; None if it is not."""
        if self.fits_for_sure(model, example, num_bytes):
            return None
        lm = model.lm()
        if self.fits_for_sure(model, example, lambda part: len(lm.tokenizer.encode(part))):
            return None
        prompts, text = self.prompts(example), self.text(example) if self.text is not None else None
        try:
            if self.training is not None:
                section, settings = self.training
                texts = training_texts.Texts(example.id, prompts[0], (text or "",))
                training_texts.encode_texts(lm, texts, section, settings)
            else:
                behind = 0 if text is None else len(lm.tokenizer.encode(text)) + 2
                room = lm.room(self.room) if self.writes else self.room
                lm.encode(example.id, prompts, room + behind, answered=not self.writes)
        except TooLongError as e:
            return f"{self.stage}: {e}"
        return None

    def fits_for_sure(self, model: "Model", example: Example, size: Callable[[str], int]) -> bool:
        """Whether an example fits, if a text has at most `size` tokens. Documents that may be cut do not count."""
        prompts, text = self.prompts(example), self.text(example) if self.text is not None else None
        limit = model.context - self.room - (model.thoughts if self.writes else 0)
        if self.training is not None:
            limit = min(limit, self.training[1].max_length)
        limit -= 0 if text is None else size(text)
        if model.max_prompt_length is not None:
            limit = min(limit, model.max_prompt_length)
        whole = [p.text if model.keeps_documents else p.before + p.after for p in prompts]
        return max(map(size, whole)) + model.overhead() + SLACK <= limit


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as far as it matters here.

    Attributes:
        context: its positions.
        max_prompt_length: see config.*.max_prompt_length.
        keeps_documents: whether a document must not be shortened.
        thoughts: tokens that it may think for before it writes, with what closes them.
        overhead: bytes that the chat template adds, at most.
        lm: loads its tokenizer.
    """

    context: int
    max_prompt_length: int | None
    keeps_documents: bool
    thoughts: int
    overhead: Callable[[], int]
    lm: Callable[[], LanguageModel]


def models(
    config: config_lib.Config, names: Iterable[str], pool: model_pool.ModelPool, roles: model_pool.Roles,
    train_tokenizer: Callable[[], None],
) -> dict[str, Model]:
    """The models that play these roles. Nothing but headers is read until a tokenizer is needed.

    Args:
        config: of the run.
        names: the roles.
        pool: reads the headers.
        roles: who plays them before training, with the tokenizer of `train_tokenizer`.
        train_tokenizer: makes the tokenizer of config.policy.tokenizer='train:V'.
    """
    return {name: _model(config, name, pool, roles, train_tokenizer) for name in names}


def _model(
    config: config_lib.Config, name: str, pool: model_pool.ModelPool, roles: model_pool.Roles,
    train_tokenizer: Callable[[], None],
) -> Model:
    settings = getattr(config, name)
    own = config.policy if settings.checkpoint == "policy" else settings
    trained = (own.tokenizer or "").startswith("train:")

    @functools.cache
    def lm() -> LanguageModel:
        if trained:
            train_tokenizer()
        return roles.without_params("reward_base" if name == "reward_model" else name)

    @functools.cache
    def overhead() -> int:
        return 0 if trained else _template_bytes(lm())  # a tokenizer of ours has no chat template

    return Model(pool.config(own.checkpoint).max_positions, settings.max_prompt_length, settings.too_long == "error",
                 language_model.thinking_room(settings.thinking_tokens), overhead, lm)


def _template_bytes(lm: LanguageModel) -> int:
    """Bytes that the chat template puts around a prompt."""
    if not lm.uses_chat:
        return 0
    return num_bytes(lm.turn.prompt(lm.rendered(UNWRITTEN), answered=True))


def too_long(
    demands: Sequence[Demand], models: Mapping[str, Model], examples: Sequence[Example], *, count_all: bool
) -> tuple[dict[str, str], int]:
    """Examples that do not fit, by id, with the reason; and how many were looked at.

    Args:
        demands: all are made of each example.
        models: by role.
        examples: the rows.
        count_all: look at all of them; else at a limited number behind the first that does not fit.
    """
    if not examples or _all_fit(demands, models, examples):
        return {}, len(examples)
    found: dict[str, str] = {}
    looked_at = behind = 0
    for example in examples:
        looked_at += 1
        reason = _first_problem(demands, models, example)
        if reason is not None:
            found[example.id] = reason
        behind += bool(found)
        if behind > _COUNTED and not count_all:
            break
    return found, looked_at


def _all_fit(demands: Sequence[Demand], models: Mapping[str, Model], examples: Sequence[Example]) -> bool:
    """Whether an example would fit for sure in which every text is as long as the longest of all examples.

    Prompts grow with their texts, so that then all do; a hundred thousand rows take one prompt of each kind.
    """
    names = [field.name for field in dataclasses.fields(Example) if field.name not in ("id", "group")]
    longest = {name: "x" * max(num_bytes(getattr(e, name)) for e in examples) for name in names}
    whole = dataclasses.replace(examples[0], **longest)
    return all(demand.fits_for_sure(models[demand.role], whole, num_bytes) for demand in demands)


def _first_problem(demands: Sequence[Demand], models: Mapping[str, Model], example: Example) -> str | None:
    return next((reason for d in demands if (reason := d.problem(models[d.role], example)) is not None), None)


def shortened(demands: Sequence[Demand], models: Mapping[str, Model], example: Example) -> Example:
    """The example with as little cut off its longest texts, other than the document, as makes it fit.

    Raises:
        InputError: it does not fit even then.
    """
    cut = example
    for name in sorted((n for n in _CUT if getattr(example, n).strip()), key=lambda n: -len(getattr(example, n))):
        text = getattr(example, name)

        def fits(shorter: str, name: str = name, base: Example = cut) -> bool:
            return _first_problem(demands, models, dataclasses.replace(base, **{name: shorter})) is None

        cut = dataclasses.replace(cut, **{name: longest_that(fits, text) or text.split()[0][:8]})
        if _first_problem(demands, models, cut) is None:
            return cut
    raise InputError(f"{_first_problem(demands, models, cut)}; not even config.data.too_long='truncate' makes it fit")


def longest_that(fits: Callable[[str], bool], text: str) -> str:
    """The longest beginning of a text that fits, up to the end of a word if there is one; '' if none does.

    Args:
        fits: what is true of a text is taken to be true of its beginnings.
    """
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
    if low in (0, len(text)):
        return text[:low]
    words = text[:low] if text[low].isspace() else text[:low].rpartition(" ")[0]
    return words.rstrip() or text[:low]
