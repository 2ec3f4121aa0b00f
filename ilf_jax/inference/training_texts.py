"""Texts to learn, behind their prompts, as training examples."""

from collections.abc import Sequence

from ilf_jax.config_sections import Training
from ilf_jax.errors import TooLongError
from ilf_jax.inference.language_model import Encoded, LanguageModel
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tokenizers.text_bounds import SLACK, num_bytes
from ilf_jax.training import packing


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
    lm: LanguageModel, example_id: str, prompt: Prompt, texts: Sequence[str], section: str, settings: Training,
    prompt_weight: float,
) -> list[packing.TrainingExample]:
    """Each text behind the prompt, with the end token. A long document is shortened, alike for all; a text never is.

    Args:
        lm: whose tokens and template.
        example_id: of the document, for messages.
        prompt: what the model reads before each text.
        texts: what it learns to write.
        section: "finetune" or "reward", for messages.
        settings: that section of the config.
        prompt_weight: loss weight of the prompt's tokens; those of the text have 1.

    Raises:
        TooLongError: prompt and longest text do not fit into config.`section`.max_length even without the document.
    """
    limit = min(settings.max_length, lm.architecture.max_positions)

    def behind(encoded: Encoded) -> list[packing.TrainingExample]:
        return [packing.training_example(encoded.ids, lm.continuation(encoded, text), lm.end_id,
                                         prompt_weight=prompt_weight) for text in texts]

    # Most prompts are short enough whatever the texts are in tokens.
    whole = lm.encode_whole(example_id, prompt, answered=True)
    if len(whole.ids) + max(map(num_bytes, texts)) + SLACK <= min(limit, lm.max_prompt_length):
        examples = behind(whole)
        if max(map(len, examples)) <= limit:  # a template may render more around an answer
            return examples
    room = max(len(lm.tokenizer.encode(text)) for text in texts) + 2
    while True:
        examples = behind(encode_prompt(lm, example_id, prompt, room, section, settings))
        longest = max(map(len, examples))
        if longest <= limit:
            return examples
        room += longest - limit  # a text took more tokens behind its prompt than by itself
