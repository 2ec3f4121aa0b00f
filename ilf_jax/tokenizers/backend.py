"""Text to ids and back by a `tokenizers.Tokenizer`, whatever files it was made from."""

import contextlib
import functools
import json
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import tokenizers

from ilf_jax.errors import InputError
from ilf_jax.tokenizers.control_tokens import ControlTokens, well_formed

MAX_TOKENS = 1 << 22
"""Ids lie below this. The largest published vocabularies have a sixteenth of it; a table of all ids stays small."""

_PROBE = "Ab 1 \t\n\u00e9\u4e16\U0001f642 e\u0301 <|x|> ...  \x00"  # goes through each part of a pipeline once


@contextlib.contextmanager
def refusing(where: object) -> Iterator[None]:
    """Turns whatever the tokenizers library raises, its panics included, into an InputError that names the file."""
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise InputError(f"{where}: cannot be read as a tokenizer ({error or type(error).__name__})") from error


class Backend:
    """Splits text into tokens. Control tokens in the text become their ids if `special`; none are added.

    Attributes:
        tokenizer: of the tokenizers library, without padding and truncation.
        size: the largest id plus one.
        unknown_ids: ids below that which no token has.
        control: the control tokens among the vocabulary's.
        added_ids, control_ids: tokens that are found in text before all others, and those of them that are special.
        model_proto: the sentencepiece model that it was made from, or b"".
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, where: str, model_proto: bytes = b"") -> None:
        """Raises InputError if the tokenizer has no tokens, or ids out of range, or fails on a short text."""
        self.tokenizer, self.where, self.model_proto = tokenizer, where, model_proto
        self._lock = threading.Lock()  # whether control tokens are recognised is a state of the tokenizer
        with refusing(where):
            tokenizer.no_padding()
            tokenizer.no_truncation()
            vocabulary = tokenizer.get_vocab(with_added_tokens=True)
            ids = frozenset(vocabulary.values())
            self.size = max(ids, default=-1) + 1
            if not 0 < self.size <= MAX_TOKENS:
                raise InputError(f"{where}: token ids must lie in 0..{MAX_TOKENS - 1}, and there must be at least one; "
                                 f"the largest is {self.size - 1}")
            if len(ids) < len(vocabulary):
                raise InputError(f"{where}: {len(vocabulary) - len(ids)} token ids are given twice, as happens where "
                                 "tokens are added to a vocabulary with gaps")
            self.unknown_ids = frozenset(range(self.size)) - ids
            added = tokenizer.get_added_tokens_decoder()
            control = {i: token for i, token in added.items() if token.special}
            self.control_ids = frozenset(control)
            self.control = ControlTokens(
                {token.content: i for i, token in control.items()},
                frozenset(token.content for token in control.values() if token.lstrip),
                frozenset(token.content for token in control.values() if token.rstrip))
            self.added_ids = frozenset(added)
        self.decode(self.encode(_PROBE, True))

    def encode(self, text: str, special: bool) -> list[int]:
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        texts = [well_formed(text) for text in texts]
        with self._lock, refusing(self.where):
            self.tokenizer.encode_special_tokens = not special
            rows = [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
            if not special:
                for i, ids in enumerate(rows):
                    if not self.control_ids.isdisjoint(ids):
                        rows[i] = self._without_control.encode(texts[i], add_special_tokens=False).ids
        return rows

    @functools.cached_property
    def _without_control(self) -> tokenizers.Tokenizer:
        """The tokenizer with its control tokens renamed to what no text holds.

        A unigram model finds control tokens in text by itself, and so does a BPE that looks up whole words.
        """
        with refusing(self.where):
            data = json.loads(self.tokenizer.to_str())
            data["added_tokens"] = [t for t in data["added_tokens"] if not t["special"]]
            data["post_processor"] = None
            model, names = data["model"], {i: f"\0{i} \0" for i in self.control_ids}
            if isinstance(model["vocab"], list):
                model["vocab"] = [[names.get(i, piece), score] for i, (piece, score) in enumerate(model["vocab"])]
            else:
                if model.get("unk_token") in model["vocab"]:  # it stands for what the vocabulary lacks, in data too
                    model["unk_token"] = names.get(model["vocab"][model["unk_token"]], model["unk_token"])
                model["vocab"] = {names.get(i, piece): i for piece, i in model["vocab"].items()}
                if "merges" in model:
                    known = model["vocab"].keys()
                    model["merges"] = [m for m in model["merges"] if known >= {*m, "".join(m)}]
            return tokenizers.Tokenizer.from_str(json.dumps(data))

    def decode(self, ids: Sequence[int], kept: Collection[int] = ()) -> str:
        written = [i for i in ids if i not in self.control_ids or i in kept]
        with refusing(self.where):
            return self.tokenizer.decode(written, skip_special_tokens=False)

    def token_texts(self) -> list[str]:
        # Decode each token after another one, because decoders strip the space before the first token.
        anchor = self.encode("a", False)[-1:]
        with refusing(self.where):
            before = len(self.tokenizer.decode(anchor, skip_special_tokens=False))
            texts = self.tokenizer.decode_batch([[*anchor, i] for i in range(self.size)], skip_special_tokens=False)
        return [text[before:] for text in texts]

    def token_id(self, text: str) -> int | None:
        return self.tokenizer.token_to_id(text)

    def piece(self, token_id: int) -> str:
        return self.tokenizer.id_to_token(token_id) or ""

    def template_adds(self, bos_id: int | None) -> bool:
        """Whether the file's template prepends BOS."""
        if bos_id is None:
            return False
        with refusing(self.where):
            return self.tokenizer.encode("a", add_special_tokens=True).ids[:1] == [bos_id]


def add_tokens(tokenizer: tokenizers.Tokenizer, tokens: Sequence[tokenizers.AddedToken], where: object) -> None:
    """Adds tokens that the vocabulary has, or that follow it, in this order.

    Raises:
        InputError: the library refuses one.
    """
    with refusing(where):
        tokenizer.add_tokens(list(tokens))


def control_tokens(texts: Sequence[str]) -> list[tokenizers.AddedToken]:
    """Encoding keeps these whole where control tokens are wanted, decoding skips them."""
    return [tokenizers.AddedToken(text, special=True, normalized=False) for text in texts]


def defined_tokens(texts: Sequence[str]) -> list[tokenizers.AddedToken]:
    """Encoding keeps these whole everywhere, decoding writes them."""
    return [tokenizers.AddedToken(text, special=False, normalized=False) for text in texts]


def ids_of(vocabulary: Any, where: object) -> dict[str, int]:
    """A vocabulary read from JSON, {token: id}.

    Raises:
        InputError: it is not an object of whole numbers in range, each given once.
    """
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise InputError(f"{where}: must be an object {{token: id}} with at least one token, "
                         f"not {type(vocabulary).__name__}")
    seen: dict[int, str] = {}
    for token, i in vocabulary.items():
        if type(i) is not int or not 0 <= i < MAX_TOKENS:
            raise InputError(f"{where}: token {token!r} has the id {i!r}; allowed: whole numbers in "
                             f"0..{MAX_TOKENS - 1}")
        if i in seen:
            raise InputError(f"{where}: the tokens {seen[i]!r} and {token!r} both have the id {i}")
        seen[i] = token
    return vocabulary
