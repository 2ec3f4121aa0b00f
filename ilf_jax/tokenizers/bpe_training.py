"""Trains a small byte-level BPE on a run's texts, for models that start from random params."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ilf_jax.runtime import storage
from ilf_jax.runtime.files import write_atomically

END = "<|end|>"

WORDS = r" ?[\w-]+|[^\w\s]|\s"
"""Regular expression of words, with the space before, and of single other characters."""


def train_bpe(texts: Iterable[str], vocab_size: int, folder: storage.Path, units: str = "") -> None:
    """Trains on `texts` and writes a folder that `Tokenizer.load('hf:FOLDER')` and transformers read.

    Args:
        texts: the texts to train on.
        vocab_size: number of tokens, the 256 bytes and the end of text included.
        folder: where to write.
        units: regular expression of what a token may span (`Task.token_units`); "" means `WORDS`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(units or WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_atomically(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_atomically(folder / "tokenizer_config.json",
                     f'{{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "{END}"}}\n')
