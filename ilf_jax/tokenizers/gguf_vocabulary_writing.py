"""A tokenizer as a GGUF file's metadata: what `gguf_vocabulary` reads.

The file names how words are split and does not say it; so every name is tried on texts until the token ids are equal.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.tokenizers import sentencepiece_model
from ilf_jax.tokenizers.backend import Backend
from ilf_jax.tokenizers.gguf_vocabulary import PRE_TOKENIZERS, Vocabulary
from ilf_jax.tokenizers.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

_PREFIX = "tokenizer.ggml."
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

# What tokenizers split in different ways.
_TEXTS = (
    "It's 9 a.m., they'll say: \"We've 12 eggs, 345 hens and 6789012 chicks!\"", "CamelCase, SHOUTING, snake_case_name",
    "  two  spaces\n\n\tand a tab\r\n   \n", "na\u00efve caf\u00e9, \u4e16\u754c \u3053\u3093\u306b\u3061\u306f, "
    "\u041f\u0440\u0438\u0432\u0435\u0442", "\U0001f642\U0001f468\u200d\U0001f469",
    "x=1;y+=2**3//4 #c <b>$5.00</b> a-b",
    "def f(self, x2):\n    return self.items[x2]  # see https://example.org/a?b=c&d=10\n\n\nclass HTTPServer2(Base):\n",
    "I posted this 2 weeks ago (on 03/14/2019), but I've had no reply...\n\nTL;DR: my roommate owes me $1,250.75!!",
    "I'M WE'RE DON'T i'd", "...?!! (so) [it] {goes} ~^|<>", "1 22 333 4444 55555",
)


def metadata(backend: Backend, size: int, samples: Sequence[str]) -> dict[str, Any]:
    """The keys tokenizer.ggml.*, without special ids and flags.

    Args:
        backend: the tokenizer.
        size: of the model's vocabulary. Ids that no token has are filled up, tokens beyond are left out.
        samples: texts of the kind that the model works on.

    Raises:
        InputError: the tokenizer is of another kind than GGUF has, or GGUF has no name for how it splits words.
    """
    texts = [*_TEXTS, *samples]
    data = json.loads(backend.tokenizer.to_str())
    if backend.model_proto or data["model"].get("byte_fallback"):
        # llama.cpp puts a space in front of any text, some tokenizers not in front of one that begins with a space.
        texts = [text.lstrip(" ") for text in texts]
        wanted = backend.encode_batch(texts, False)
        keys = _sentencepiece(backend, size) if backend.model_proto else _converted(backend, data, size)
        if _ids(keys, texts, backend.where) == wanted:
            return keys
        raise InputError(f"{backend.where}: --format=gguf: what GGUF says of a sentencepiece model gives other tokens "
                         "than this tokenizer; use --format=huggingface")
    wanted = backend.encode_batch(texts, False)
    byte_level, own = _byte_level(backend, data, size), _words(data)
    names = {words: pre for pre, words in reversed(PRE_TOKENIZERS.items())}  # of several, the first
    for words in sorted(names, key=lambda words: words != own):
        keys = {**byte_level, f"{_PREFIX}pre": names[words]}
        if _ids(keys, texts, backend.where) == wanted:
            return keys
    raise InputError(f"{backend.where}: --format=gguf: llama.cpp has no name for how this tokenizer splits text; known "
                     f"are {', '.join(PRE_TOKENIZERS)}; use --format=huggingface")


def _ids(keys: Mapping[str, Any], texts: Sequence[str], where: str) -> list[list[int]]:
    fast, _, _ = Vocabulary(keys, where).tokenizer()
    return Backend(fast, where).encode_batch(texts, False)


def _steps(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of a tokenizer.json's pre-tokenizer."""
    whole = data["pre_tokenizer"] or {"type": "Sequence", "pretokenizers": []}
    return whole["pretokenizers"] if whole["type"] == "Sequence" else [whole]


def _words(data: Mapping[str, Any]) -> tuple[str | None, ...]:
    """By which regular expressions it splits words, as `PRE_TOKENIZERS` has them; a guess to begin with."""
    found: list[str | None] = []
    for step in _steps(data):
        if step["type"] == "Split":
            found.append(step["pattern"].get("Regex"))
        elif step["type"] == "Digits":
            found.append(r"\p{N}")
        elif step["type"] == "ByteLevel" and step.get("use_regex", True):
            found.append(None)
    return tuple(found)


def _byte_level(backend: Backend, data: Mapping[str, Any], size: int) -> dict[str, Any]:
    if data["model"]["type"] != "BPE" or all(step["type"] != "ByteLevel" for step in _steps(data)):
        raise InputError(f"{backend.where}: --format=gguf: takes byte-level BPE and sentencepiece's BPE; this is a "
                         f"{data['model']['type']}; use --format=huggingface")
    known = {token for token, i in backend.tokenizer.get_vocab(with_added_tokens=True).items() if i < size}
    return {f"{_PREFIX}model": "gpt2", **_tokens(backend, size, {}),
            f"{_PREFIX}merges": [f"{a} {b}" for a, b in _merges(data) if {a, b, a + b} <= known]}


def _merges(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of a tokenizer.json, which older versions write as one text each."""
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in data["model"]["merges"])
    return [(first, second) for first, second in pairs]


def _converted(backend: Backend, data: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Of a tokenizer.json that was made from a sentencepiece model, whose scores are the order of the merges."""
    if data["model"]["type"] != "BPE":
        raise InputError(f"{backend.where}: --format=gguf: takes sentencepiece models of type bpe, not unigram; use "
                         "--format=huggingface")
    ranks = {a + b: rank for rank, (a, b) in reversed(list(enumerate(_merges(data))))}
    vocab, steps = data["model"]["vocab"], [*_steps(data), *_normalizers(data)]
    types = {i: BYTE for token, i in vocab.items() if _BYTE.fullmatch(token)}
    if data["model"].get("unk_token") in vocab:
        types[vocab[data["model"]["unk_token"]]] = UNKNOWN
    tokens = _tokens(backend, size, types)
    adds_space = any(step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never" for step in steps)
    return {
        f"{_PREFIX}model": "llama", f"{_PREFIX}pre": "default", **tokens,
        f"{_PREFIX}scores": [-float(ranks.get(text, len(ranks))) for text in tokens[f"{_PREFIX}tokens"]],
        f"{_PREFIX}add_space_prefix": adds_space, f"{_PREFIX}remove_extra_whitespaces": False,
    }


def _normalizers(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    whole = data["normalizer"] or {"type": "Sequence", "normalizers": []}
    return whole["normalizers"] if whole["type"] == "Sequence" else [whole]


def _sentencepiece(backend: Backend, size: int) -> dict[str, Any]:
    proto = sentencepiece_model.parse(backend.model_proto, backend.where)
    if proto.trainer_spec.model_type != sentencepiece_model.BPE:
        raise InputError(f"{backend.where}: --format=gguf: takes sentencepiece models of type bpe, not unigram; use "
                         "--format=huggingface")
    types = {i: piece.type for i, piece in enumerate(proto.pieces)}
    scores = [piece.score for piece in proto.pieces[:size]]
    return {
        f"{_PREFIX}model": "llama", f"{_PREFIX}pre": "default", **_tokens(backend, size, types),
        f"{_PREFIX}scores": [*scores, *[0.0] * (size - len(scores))],
        f"{_PREFIX}add_space_prefix": bool(proto.normalizer_spec.add_dummy_prefix),
        f"{_PREFIX}remove_extra_whitespaces": bool(proto.normalizer_spec.remove_extra_whitespaces),
    }


def _tokens(backend: Backend, size: int, types: Mapping[int, int]) -> dict[str, Any]:
    """Text and type of each id; of added tokens the type is what they were added as, unless `types` says it."""
    texts, kinds = [], []
    for i in range(size):
        text = backend.piece(i) if i < backend.size and i not in backend.unknown_ids else None
        added = CONTROL if i in backend.control_ids else USER_DEFINED if i in backend.added_ids else NORMAL
        texts.append(f"[PAD{i}]" if text is None else text)
        kinds.append(UNUSED if text is None else types.get(i, added))
    return {f"{_PREFIX}tokens": texts, f"{_PREFIX}token_type": kinds}
