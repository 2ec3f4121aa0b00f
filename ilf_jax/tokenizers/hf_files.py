"""Reads a tokenizer from a folder or a file: the backend, the special ids and the chat template."""

import dataclasses
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io
from ilf_jax.runtime.files import read_json
from ilf_jax.tokenizers import gguf_vocabulary

# Tokens that end a turn or a document, if the vocabulary marks them as special. GGUF files often name only one.
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>")


class Backend(Protocol):
    """Splits text into tokens. Control tokens in the text become their ids if `special`; none are added."""

    size: int

    def encode(self, text: str, special: bool) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def token_texts(self) -> list[str]: ...
    def token_id(self, text: str) -> int | None: ...
    def piece(self, token_id: int) -> str: ...
    def template_adds(self, bos_id: int | None) -> bool: ...
    def to_json(self) -> tokenizers.Tokenizer: ...


class Fast:
    """A `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()  # whether control tokens are recognised is a state of the tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str, special: bool) -> list[int]:
        with self._lock:
            self.tokenizer.encode_special_tokens = not special
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        with self._lock:
            self.tokenizer.encode_special_tokens = not special
            return [e.ids for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def token_texts(self) -> list[str]:
        # Decode each token after another one, because decoders strip the space before the first token.
        anchor = self.encode("a", False)[-1:]
        before = len(self.tokenizer.decode(anchor, skip_special_tokens=False))
        texts = self.tokenizer.decode_batch([[*anchor, i] for i in range(self.size)], skip_special_tokens=False)
        return [text[before:] for text in texts]

    def token_id(self, text: str) -> int | None:
        return self.tokenizer.token_to_id(text)

    def piece(self, token_id: int) -> str:
        return self.tokenizer.id_to_token(token_id) or ""

    def template_adds(self, bos_id: int | None) -> bool:
        """Whether the file's template prepends BOS."""
        return bos_id is not None and self.tokenizer.encode("a", add_special_tokens=True).ids[:1] == [bos_id]

    def to_json(self) -> tokenizers.Tokenizer:
        return self.tokenizer


class SentencePiece:
    """A sentencepiece model. sentencepiece does not recognise control tokens in text, so we split the text at them."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, added: Mapping[str, int]) -> None:
        self.processor = processor
        pieces = processor.get_piece_size()
        self.specials = {processor.id_to_piece(i): i for i in range(pieces) if processor.is_control(i)} | dict(added)
        self.added = {i: text for text, i in added.items() if i >= pieces}
        self.size = max([pieces - 1, *self.added]) + 1
        longest_first = sorted(filter(None, self.specials), key=len, reverse=True)
        self.split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None

    def encode(self, text: str, special: bool) -> list[int]:
        if not special or self.split is None:
            return self.processor.encode(text)
        ids: list[int] = []
        for part in self.split.split(text):
            ids += [self.specials[part]] if part in self.specials else self.processor.encode(part) if part else []
        return ids

    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        return [self.encode(text, special) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        skipped = set(self.specials.values())
        return self.processor.decode([int(i) for i in ids if int(i) not in skipped])

    def token_texts(self) -> list[str]:
        p, texts = self.processor, [""] * self.size
        for i in range(p.get_piece_size()):
            piece = p.id_to_piece(i)
            if p.is_byte(i):  # <0x0A>
                texts[i] = bytes([int(piece[3:5], 16)]).decode(errors="replace")
            else:
                texts[i] = piece.replace("▁", " ")
        for i, text in self.added.items():
            texts[i] = text
        return texts

    def token_id(self, text: str) -> int | None:
        if text in self.specials:
            return self.specials[text]
        i = self.processor.piece_to_id(text)
        return i if self.processor.id_to_piece(i) == text else None

    def piece(self, token_id: int) -> str:
        return self.added.get(token_id) or self.processor.id_to_piece(token_id)

    def template_adds(self, bos_id: int | None) -> bool:
        """A sentencepiece file has no template. Models that use one were trained with BOS."""
        return bos_id is not None

    def to_json(self) -> tokenizers.Tokenizer:
        converted = gguf_vocabulary.sentencepiece_to_json(self.processor)
        gguf_vocabulary.add_specials(converted, [self.added[i] for i in sorted(self.added)])
        return converted


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a Tokenizer is made of; see its attributes."""

    backend: Backend
    bos_id: int | None = None
    eos_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    adds_bos: bool = False
    chat_template: str | None = None
    where: str = "tokenizer"


def from_file(path: Path) -> Parts:
    """A single tokenizer.json or sentencepiece .model; special tokens come from the files beside it, if any."""
    if not path.is_file():
        raise InputError(f"tokenizer file:{path}: no such file")
    if path.suffix not in (".json", ".model"):
        raise InputError(f"tokenizer file:{path}: unknown kind {path.suffix!r}; allowed: .json, .model")
    return _parts(path.parent, path)


def from_folder(folder: Path) -> Parts:
    """The tokenizer of a Hugging Face folder: tokenizer.json, else tokenizer.model, else vocab.json and merges.txt."""
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json"):
        if (folder / name).is_file():
            return _parts(folder, folder / name)
    raise InputError(f"{folder}: has no tokenizer.json, tokenizer.model or vocab.json")


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _parts(folder: Path, path: Path) -> Parts:
    settings = {**_optional(folder / "special_tokens_map.json"), **_optional(folder / "tokenizer_config.json")}
    model, generation = _optional(folder / "config.json"), _optional(folder / "generation_config.json")
    backend = _backend(path, settings)
    ids = {}
    for name in ("bos", "eos"):
        text = _content(settings.get(f"{name}_token"))
        known = generation.get(f"{name}_token_id", model.get(f"{name}_token_id"))
        if text is None and isinstance(backend, SentencePiece):
            piece_id = getattr(backend.processor, f"{name}_id")()
            known = piece_id if piece_id >= 0 else known
        known = known[0] if isinstance(known, list) and known else known
        ids[name] = backend.token_id(text) if text is not None else (known if isinstance(known, int) else None)
    stops = [i for source in (generation, model) for i in _as_list(source.get("eos_token_id"))]
    adds_bos = settings.get("add_bos_token")
    if adds_bos is None:
        adds_bos = backend.template_adds(ids["bos"])
    return Parts(
        backend, ids["bos"], ids["eos"], tuple(i for i in stops if i < backend.size), bool(adds_bos),
        _chat_template(folder, settings), str(path),
    )


def _as_list(value: Any) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # named templates: "default" is for plain chat
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    return template


def _backend(path: Path, settings: Mapping[str, Any]) -> Backend:
    try:
        if path.suffix == ".model":
            processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
            listed = settings.get("added_tokens_decoder", {}).items()
            added: dict[Any, int] = {_content(t): int(i) for i, t in listed if t.get("special", False)}
            return SentencePiece(processor, {**added, **_optional(path.parent / "added_tokens.json")})
        if path.name != "vocab.json":
            return Fast(tokenizers.Tokenizer.from_file(str(path)))
        merges = path.parent / "merges.txt"
        fast = tokenizers.Tokenizer(models.BPE.from_file(str(path), str(merges)))
    except Exception as error:  # tokenizers raises plain Exception, sentencepiece RuntimeError and OSError
        raise InputError(f"{path}: cannot be read as a tokenizer ({error})") from error
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space", False)))
    fast.decoder = decoders.ByteLevel()
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    specials: set[Any] = {_content(settings[n]) for n in names if settings.get(n)} or {"<|endoftext|>"}
    gguf_vocabulary.add_specials(fast, sorted(s for s in specials if fast.token_to_id(s) is not None))
    return Fast(fast)


def from_gguf(path: str) -> Parts:
    """The vocabulary in a GGUF file's metadata."""
    meta = checkpoint_io.open_gguf(path).metadata
    kind, key = meta.get("tokenizer.ggml.model"), "tokenizer.ggml.{}".format
    if key("tokens") not in meta:
        raise InputError(f"{path}: has no vocabulary (tokenizer.ggml.tokens)")
    tokens = meta[key("tokens")]
    types = meta.get(key("token_type"), [1] * len(tokens))
    if kind == "gpt2":
        merges = meta.get(key("merges"), [])
        pre = meta.get(key("pre"), "default")
        backend: Backend = Fast(gguf_vocabulary.byte_level_bpe(tokens, merges, types, pre, path))
        adds_bos = pre in gguf_vocabulary.LLAMA3_NAMES
    elif kind == "llama":
        scores = meta.get(key("scores"), [0.0] * len(tokens))
        backend = SentencePiece(gguf_vocabulary.sentencepiece_model(tokens, scores, types, meta, path), {})
        adds_bos = True
    else:
        raise InputError(f"{path}: tokenizer.ggml.model = {kind!r}; allowed: gpt2, llama")
    special = {t: i for i, (t, k) in enumerate(zip(tokens, types, strict=True)) if k == gguf_vocabulary.CONTROL}
    named = [meta[k] for k in (key("eot_token_id"), key("eom_token_id")) if k in meta]
    ends = [special[t] for t in _END_TOKENS if t in special]
    return Parts(
        backend, meta.get(key("bos_token_id")), meta.get(key("eos_token_id")), (*named, *ends),
        bool(meta.get(key("add_bos_token"), adds_bos)), meta.get("tokenizer.chat_template"), path,
    )
