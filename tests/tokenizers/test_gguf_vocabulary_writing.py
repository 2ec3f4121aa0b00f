"""Tokenizers written as GGUF metadata: read back, they give the same token ids."""

import io

import pytest
import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from ilf_jax.errors import InputError
from ilf_jax.tasks import word_removal
from ilf_jax.tokenizers import bpe_training, gguf_vocabulary_writing
from ilf_jax.tokenizers.gguf_vocabulary import PRE_TOKENIZERS
from ilf_jax.tokenizers.tokenizer import Tokenizer

CORPUS = ["It's the 1234th day, isn't it? Ada called Bo a gem, a star and a hero.", "Zwölf Äpfel, 世界 und 🙂",
          "def f(x):\n    return x ** 2  # done\n", "HTTPServer starts at 12:30\n\n\tand ends at 20:45"] * 5
SAMPLES = ["Ada called Bo a hero, isn't it?", " a gem and a star\n"]


def saved(folder, pre_tokenizer, normalizer=None):
    """A byte-level BPE that splits words in this way, trained on texts that show how."""
    fast = tokenizers.Tokenizer(models.BPE())
    fast.normalizer = normalizer
    fast.pre_tokenizer = pre_tokenizers.Sequence([
        *pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(gguf_vocabulary_writing._TEXTS * 3, trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    fast.add_special_tokens(["<|extra|>"])
    folder.mkdir()
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    return Tokenizer.load(f"hf:{folder}")


def words(pre):
    return [pre_tokenizers.Split(Regex(regex), "isolated") for regex in PRE_TOKENIZERS[pre]]


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken", "gpt-4o"])
def test_the_way_of_splitting_words_is_found(tmp_path, pre):
    normalizer = normalizers.NFC() if pre == "qwen2" else None
    tokenizer = saved(tmp_path / "hf", words(pre), normalizer)
    keys = tokenizer.gguf_metadata(tokenizer.vocab_size, SAMPLES)
    assert keys["tokenizer.ggml.pre"] == pre and keys["tokenizer.ggml.eos_token_id"] == 0
    assert keys["tokenizer.ggml.token_type"].count(3) == 2 and len(keys["tokenizer.ggml.merges"]) > 100


def test_the_tokenizers_that_runs_train(tmp_path):
    """Their units have no name in GGUF. Where nothing but digits is split, merges find the same tokens."""
    for name, corpus in (("letters", ["Ada is a gem, a star and a hero.", "Bo is a fool and a joy."]), ("all", CORPUS)):
        bpe_training.train_bpe(corpus * 5, 400, tmp_path / name, word_removal.TOKEN_UNITS)
    tokenizer = Tokenizer.load(f"hf:{tmp_path / 'letters'}")
    assert tokenizer.gguf_metadata(tokenizer.vocab_size, SAMPLES)["tokenizer.ggml.pre"] == "superbpe"
    with pytest.raises(InputError, match=r"llama\.cpp has no name for how this tokenizer splits text"):
        Tokenizer.load(f"hf:{tmp_path / 'all'}").gguf_metadata(400, SAMPLES)  # " 1234th" is one token


def test_more_and_fewer_embeddings_than_tokens(tmp_path):
    tokenizer = saved(tmp_path / "hf", words("llama-bpe"))
    more, fewer = (tokenizer.gguf_metadata(tokenizer.vocab_size + n, ["Ada"]) for n in (3, -1))
    size = tokenizer.vocab_size
    assert more["tokenizer.ggml.tokens"][size:] == [f"[PAD{size + i}]" for i in range(3)]
    assert more["tokenizer.ggml.token_type"][size - 2 :] == [1, 3, 5, 5, 5]
    assert len(fewer["tokenizer.ggml.tokens"]) == tokenizer.vocab_size - 1
    assert fewer["tokenizer.ggml.merges"] == more["tokenizer.ggml.merges"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece(tmp_path, kind):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=400, model_type=kind, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False)
    (tmp_path / "tokenizer.model").write_bytes(out.getvalue())
    tokenizer = Tokenizer.load(f"file:{tmp_path / 'tokenizer.model'}")
    if kind == "unigram":
        tokenizer.save(tmp_path / "hf")
        for refused in (tokenizer, Tokenizer.load(f"hf:{tmp_path / 'hf'}")):
            with pytest.raises(InputError, match="takes sentencepiece models of type bpe, not unigram"):
                refused.gguf_metadata(tokenizer.vocab_size, SAMPLES)
        return
    keys = tokenizer.gguf_metadata(tokenizer.vocab_size, SAMPLES)
    assert keys["tokenizer.ggml.model"] == "llama" and keys["tokenizer.ggml.add_bos_token"] is True
    assert {1, 2, 3, 6} <= set(keys["tokenizer.ggml.token_type"]) and keys["tokenizer.ggml.add_space_prefix"] is True
    # Most folders have it as a tokenizer.json, too, which is read first and holds no scores.
    tokenizer.save(tmp_path / "hf")
    fast = Tokenizer.load(f"hf:{tmp_path / 'hf'}").gguf_metadata(tokenizer.vocab_size, SAMPLES)
    assert not (set(fast) ^ set(keys)) and {k for k in keys if fast[k] != keys[k]} <= {"tokenizer.ggml.scores"}


@pytest.mark.fast
def test_what_gguf_cannot_say(tmp_path):
    odd = saved(tmp_path / "odd", [pre_tokenizers.Split(Regex("."), "isolated")])  # no token spans two letters
    odd._backend.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    with pytest.raises(InputError, match=r"llama\.cpp has no name for how this tokenizer splits text; known are gpt-2"):
        odd.gguf_metadata(odd.vocab_size, SAMPLES)
    words_only = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, "[UNK]"))
    (tmp_path / "words").mkdir()
    words_only.save(str(tmp_path / "words/tokenizer.json"))
    with pytest.raises(InputError, match=r"takes byte-level BPE and sentencepiece's BPE; this is a WordLevel"):
        gguf_vocabulary_writing.metadata(Tokenizer.load(f"hf:{tmp_path / 'words'}")._backend, 2, [])
