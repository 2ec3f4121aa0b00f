"""Texts to learn, behind their prompts, as training examples."""

import dataclasses
from collections.abc import Sequence

from ilf_jax.config_sections import Training
from ilf_jax.errors import TooLongError
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.text_bounds import SLACK, num_bytes
from ilf_jax.training import packing


@dataclasses.dataclass(frozen=True)
class Texts:
    """What is to be learned about one document.

    Attributes:
        example_id: of the document, for messages.
        prompt: what the model reads before each text.
        texts: what it learns to write.
        prompt_weight: loss weight of the prompt's tokens; those of the texts have 1.
    """

    example_id: str
    prompt: Prompt
    texts: tuple[str, ...]
    prompt_weight: float = 0.0


def encode_prompt(
    lm: LanguageModel, example_id: str, prompt: Prompt, room: int, section: str, settings: Training
) -> Encoded:
    """A prompt that leaves `room` tokens of config.`section`.max_length free; the document is shortened if need be.

    Args:
        lm: whose tokens and template.
        example_id: of the document, for messages.
        prompt: what the model reads.
        room: tokens to leave.
        section: "finetune" or "reward", for messages.
        settings: that section of the config.

    Raises:
        TooLongError: the prompt does not fit, even without the document.
    """
    limit = min(settings.max_length, lm.architecture.max_positions)
    if room >= limit:
        raise TooLongError(f"what is to be learned about document {example_id!r} has about {room} tokens, and "
                         f"config.{section}.max_length={settings.max_length} (context of "
                         f"{lm.architecture.max_positions}) leaves no room for its prompt")
    try:
        return lm.encode(example_id, [prompt], lm.architecture.max_positions - limit + room, answered=True)[0]
    except TooLongError as e:
        raise TooLongError(f"{e}; {room} of config.{section}.max_length={settings.max_length} tokens are kept for what "
                         "is to be learned") from e


def encode_texts(
    lm: LanguageModel, texts: Texts, section: str, settings: Training
) -> list[packing.TrainingExample]:
    """Each text behind the prompt, with the end token. A long document is shortened, alike for all; a text never is.

    Args:
        lm: whose tokens and template.
        texts: what is to be learned.
        section: "finetune" or "reward", for messages.
        settings: that section of the config.

    Raises:
        TooLongError: prompt and longest text do not fit into config.`section`.max_length even without the document.
    """
    (made,) = encode_batch(lm, [texts], section, settings)
    if isinstance(made, TooLongError):
        raise made
    return made


def encode_batch(
    lm: LanguageModel, batch: Sequence[Texts], section: str, settings: Training
) -> list[list[packing.TrainingExample] | TooLongError]:
    """`encode_texts` of each document, in parallel; what it would raise stands in the place of what it would return."""
    limit = min(settings.max_length, lm.architecture.max_positions)
    ids = {texts.prompt: texts.example_id for texts in batch}  # several texts may stand behind one prompt
    wholes = dict(zip(ids, lm.encode_whole_batch([*ids.values()], [*ids], answered=True), strict=True))
    # Most prompts are short enough whatever the texts are in tokens.
    short = [len(wholes[texts.prompt].ids) + max(map(num_bytes, texts.texts)) + SLACK
             <= min(limit, lm.max_prompt_length) for texts in batch]
    outputs = [(wholes[texts.prompt], text, texts.prompt_weight)
               for texts, is_short in zip(batch, short, strict=True) if is_short for text in texts.texts]
    behind = iter(_behind(lm, outputs))
    made: list[list[packing.TrainingExample] | TooLongError] = []
    for texts, is_short in zip(batch, short, strict=True):
        examples = [next(behind) for _ in texts.texts] if is_short else []
        if examples and max(map(len, examples)) <= limit:  # a template may render more around an answer
            made.append(examples)
            continue
        try:
            made.append(_with_room(lm, texts, section, settings))
        except TooLongError as e:
            made.append(e)
    return made


def _with_room(lm: LanguageModel, texts: Texts, section: str, settings: Training) -> list[packing.TrainingExample]:
    """See `encode_texts`; the prompt is shortened by as much as the texts need."""
    limit = min(settings.max_length, lm.architecture.max_positions)
    room = max(map(len, lm.tokenizer.encode_batch(texts.texts))) + 2
    while True:
        prompt = encode_prompt(lm, texts.example_id, texts.prompt, room, section, settings)
        examples = _behind(lm, [(prompt, text, texts.prompt_weight) for text in texts.texts])
        longest = max(map(len, examples))
        if longest <= limit:
            return examples
        room += longest - limit  # a text took more tokens behind its prompt than by itself


def _behind(lm: LanguageModel, outputs: Sequence[tuple[Encoded, str, float]]) -> list[packing.TrainingExample]:
    """An example of each (prompt, text, loss weight of the prompt's tokens)."""
    continuations = lm.continuations([(prompt, text) for prompt, text, _ in outputs])
    return [packing.training_example(prompt.ids, continuation, lm.end_id, prompt_weight=weight)
            for (prompt, _, weight), continuation in zip(outputs, continuations, strict=True)]
