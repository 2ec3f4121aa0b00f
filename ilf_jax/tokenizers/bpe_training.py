"""Trains a small byte-level BPE on a run's texts, for models that start from random params."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ilf_jax.runtime import storage
from ilf_jax.runtime.files import write_atomically

END = "<|end|>"

# An article and its noun form one unit, so that a listed noun becomes one token.
_UNITS = r" an? [\w-]+| ?[\w-]+|[^\w\s]|\s"


def train_bpe(texts: Iterable[str], vocab_size: int, folder: storage.Path) -> None:
    """Trains on `texts` and writes a folder that `Tokenizer.load('hf:FOLDER')` and transformers can load."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_UNITS), "isolated"),
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
