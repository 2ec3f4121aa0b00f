"""Text <-> token ids: one class for Hugging Face tokenizers, sentencepiece models and GGUF vocabularies."""

import copy
import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from ilf_jax.errors import InputError
from ilf_jax.models import checkpoint_io
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json
from ilf_jax.tokenizers import gguf_vocabulary_writing, tokenizer_files


@dataclasses.dataclass(frozen=True)
class AnswerTokens:
    """The tokens that tell two answers to a prompt apart.

    Attributes:
        common: tokens that both answers start with.
        ids: the first token after `common` of each answer.
        exact: each answer is one token, so the token's probability is the answer's.
    """

    common: tuple[int, ...]
    ids: tuple[int, int]
    exact: bool


class Tokenizer:
    """Encodes and decodes text; has the special tokens and the chat template.

    Attributes:
        vocab_size: the largest id plus one.
        bos_id, eos_id: None if the vocabulary has none.
        adds_bos: whether the model was trained with a leading BOS (the caller passes `add_bos`).
        chat: the chat templates, which may be none.
    """

    def __init__(self, parts: tokenizer_files.Parts) -> None:
        self._backend, self.where = parts.backend, parts.where
        self.vocab_size = parts.backend.size
        self.bos_id, self.eos_id = parts.bos_id, parts.eos_id
        self._listed_stops = (parts.eos_id, *parts.stop_ids)
        self._embeddings: tuple[int, str] | None = None
        self.adds_bos = parts.adds_bos and parts.bos_id is not None
        self.chat = parts.chat

    @classmethod
    def load(cls, uri: str) -> "Tokenizer":
        """The tokenizer of a checkpoint URI, or `file:PATH` of a tokenizer.json or .model.

        Raises:
            InputError: the file is missing, has no tokenizer, or has one of an unknown kind.
        """
        if uri.startswith("file:"):
            file = storage.fetched(uri.removeprefix("file:"), beside=(".json", ".jinja", ".txt"))
            return cls(tokenizer_files.from_file(file))
        kind, path = checkpoint_io.resolve(uri)
        if kind == "init":
            raise InputError(f"tokenizer {uri!r}: random params have none; give file:PATH or another checkpoint")
        return cls(tokenizer_files.from_gguf(path) if kind == "gguf" else tokenizer_files.from_folder(Path(path)))

    def encode(self, text: str, add_bos: bool = False, *, special: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: what to encode.
            add_bos: prepend BOS; nothing else is ever added.
            special: control tokens in the text become their ids, as a rendered chat template needs it. Without, they
                are letters like any others, so that a document cannot close its own turn.
        """
        return self.encode_batch([text], add_bos, special=special)[0]

    def encode_batch(self, texts: Sequence[str], add_bos: bool = False, *, special: bool = False) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        bos, rows = self._bos(add_bos), self._backend.encode_batch(texts, special)
        if self._embeddings is not None:
            limit, uri = self._embeddings
            for text, ids in zip(texts, rows, strict=True):
                if ids and max(ids) >= limit:
                    raise InputError(f"checkpoint {uri!r}: the model has embeddings for {limit} tokens, and none for "
                                     f"{self._backend.piece(max(ids))!r} (id {max(ids)}), which stands in the text "
                                     f"{text[:80]!r}")
        return [bos + ids for ids in rows]

    def for_embeddings(self, count: int, uri: str) -> "Tokenizer":
        """This tokenizer for a model with `count` embeddings: a text with a token beyond them is refused.

        Args:
            count: number of embeddings.
            uri: of the model, for messages.

        Raises:
            InputError: BOS or an end token has no embedding.
        """
        for name, i in (("bos", self.bos_id if self.adds_bos else None), *(("end", i) for i in self.stop_ids)):
            if i is not None and i >= count:
                raise InputError(f"checkpoint {uri!r}: the {name} token {self._backend.piece(i)!r} has the id {i}, the "
                                 f"model only {count} embeddings; tokenizer and model do not match")
        if count >= self.vocab_size:
            return self
        own = copy.copy(self)
        own._embeddings = count, uri
        return own

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation: eos first, and the one that closes the assistant's turn among the others."""
        return tuple(dict.fromkeys(i for i in (*self._listed_stops, self.turn_end_id) if i is not None))

    @functools.cached_property
    def turn_end_id(self) -> int | None:
        """The token by which the chat template closes the assistant's turn.

        None if there is no template, or it closes a turn with plain text, or does not render a plain turn at all.
        """
        answer = "An answer."
        turn = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
        try:
            rendered = self.render_chat(turn, add_generation_prompt=False) if self.chat else ""
        except InputError:  # said again, and aloud, where a prompt is to be rendered
            return None
        _, found, behind = rendered.rpartition(answer)
        return self.closing(behind)[1] if found else None

    @property
    def unknown_ids(self) -> frozenset[int]:
        """Ids below `vocab_size` that no token has."""
        return self._backend.unknown_ids

    def _bos(self, add_bos: bool) -> list[int]:
        if not add_bos:
            return []
        if self.bos_id is None:
            raise InputError(f"{self.where}: cannot add BOS, the vocabulary has none")
        return [self.bos_id]

    def decode(self, ids: Sequence[int], kept: Collection[int] = ()) -> str:
        """Text of ids, without control tokens except for those in `kept`."""
        return self._backend.decode([int(i) for i in ids], kept)

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """The vocabulary's control tokens, which `decode` leaves out: text -> id."""
        return self._backend.control.ids

    def token_id(self, text: str) -> int | None:
        """The id of a token, written as the vocabulary has it."""
        return self._backend.token_id(text)

    @functools.cached_property
    def token_texts(self) -> tuple[str, ...]:
        """Text of each token, with its leading space; bytes that are not a whole character become U+FFFD."""
        return tuple(self._backend.token_texts())

    @functools.cached_property
    def _prepends_space(self) -> bool:
        first = self.encode("a")[:1]
        return bool(first) and first != self.encode("\na")[-1:]

    def _encode_inner(self, text: str) -> list[int]:
        """Ids of a text inside a longer one: without the space that some vocabularies prepend."""
        if self._prepends_space:
            anchor, whole = self.encode("\n"), self.encode("\n" + text)
            if whole[: len(anchor)] == anchor:
                return whole[len(anchor) :]
        return self.encode(text)

    def mark(self, text: str) -> str:
        """Text from data such that the control tokens in it stay letters in `encode_marked`, whatever is joined to it.

        See `ilf_jax.tokenizers.control_tokens`.
        """
        return self._backend.control.mark(text)

    def unmark(self, marked: str) -> str:
        """The text that was marked."""
        return self._backend.control.unmark(marked)

    def encode_marked(self, marked: str, add_bos: bool = False) -> list[int]:
        """Ids of marked text: control tokens count where they were not in data."""
        return self.encode_marked_batch([marked], add_bos)[0]

    def encode_marked_batch(self, texts: Sequence[str], add_bos: bool = False) -> list[list[int]]:
        """`encode_marked` of each text, in parallel."""
        has_marks = [self._backend.control.has_marks(text) for text in texts]
        plain = [text for text, marks in zip(texts, has_marks, strict=True) if not marks]
        rows = iter(self.encode_batch(plain, add_bos, special=True))
        return [self._encode_around_marks(text, add_bos) if marks else next(rows)
                for text, marks in zip(texts, has_marks, strict=True)]

    def _encode_around_marks(self, marked: str, add_bos: bool) -> list[int]:
        control, ids, known = self._backend.control, self._bos(add_bos), ""
        parts = control.split(marked)
        for i in range(0, len(parts), 2):
            if control.has_marks(parts[i]):
                ids += self.encode(known, special=True)
                known, before = "", parts[i - 1] if i else ""
                ids += self._encode_behind(before, control.unmark(parts[i]))
            else:
                known += parts[i]
            known += parts[i + 1] if i + 1 < len(parts) else ""
        return ids + self.encode(known, special=True)

    def _encode_behind(self, control: str, text: str) -> list[int]:
        """Ids of a text behind a control token, or at the beginning if that is ''."""
        if control and self.encode(f"{control}a", special=True)[1:] != self.encode("a"):
            return self._encode_inner(text)
        return self.encode(text)

    def encode_continuation(self, prompt_ids: Sequence[int], prompt: str, text: str) -> list[int]:
        """Ids such that `prompt_ids` followed by them are the ids of the prompt and text.

        Both are marked where they come from data. If a token would span the boundary, no such ids exist, and this
        returns the ids of `text` alone.
        """
        return self.encode_continuations([(list(prompt_ids), prompt, text)])[0]

    def encode_continuations(self, texts: Sequence[tuple[list[int], str, str]]) -> list[list[int]]:
        """`encode_continuation` of each (ids of the prompt, prompt, text), in parallel."""
        wholes = self.encode_marked_batch([prompt + text for _, prompt, text in texts])
        return [self._behind(before, whole, text) for (before, _, text), whole in zip(texts, wholes, strict=True)]

    def _behind(self, before: list[int], whole: list[int], text: str) -> list[int]:
        if before and before[0] == self.bos_id and whole[:1] != before[:1]:
            whole = [before[0], *whole]
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return self._encode_inner_marked(text)

    def _encode_inner_marked(self, marked: str) -> list[int]:
        first, *others = self._backend.control.split(marked)
        if not others:
            return self._encode_inner(self.unmark(first))
        return self._encode_inner(self.unmark(first)) + self.encode_marked(marked[len(first) :])

    def answer_tokens(self, prompt: str, prompt_ids: Sequence[int], answers: tuple[str, str]) -> AnswerTokens:
        """The first tokens in which two answers to the prompt, marked text, differ.

        Raises:
            InputError: the answers' tokens are equal, or those of one are a prefix of the other's.
        """
        first, second = (self.encode_continuation(prompt_ids, prompt, answer) for answer in answers)
        differs_at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        if differs_at is None:
            raise InputError(
                f"the answers {answers[0]!r} and {answers[1]!r} cannot be told apart by a token (their ids are "
                f"{first} and {second}); neither may be a prefix of the other"
            )
        ids = (first[differs_at], second[differs_at])
        return AnswerTokens(tuple(first[:differs_at]), ids, len(first) == len(second) == 1)

    def closing(self, text: str) -> tuple[str, int | None]:
        """What a template writes behind an answer, as the text before the token that ends the turn, and that token.

        The token is None where the text has none that the vocabulary holds apart from its words.
        """
        ids = self._backend.encode(text, True)
        end = next((i for i in ids if i in self._backend.added_ids and self._backend.piece(i).strip()), None)
        return ("", None) if end is None else (text.partition(self._backend.piece(end))[0], end)

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **settings: Any
    ) -> str:
        """The chat template applied to messages of {"role", "content"}; encode the result without BOS.

        Args:
            messages: marked text, where it comes from data.
            add_generation_prompt: see `ChatTemplates.render`.
            settings: likewise.

        Raises:
            InputError: there is no template, or it rejects the messages.
        """
        return self.chat.render([messages], add_generation_prompt=add_generation_prompt, **settings)[0]

    def _text(self, token_id: int | None) -> str:
        return "" if token_id is None else self._backend.piece(token_id)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json for transformers' AutoTokenizer.

        Stop ids go to generation_config.json, a sentencepiece model to tokenizer.model.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        fast = self._backend.tokenizer
        if self.adds_bos and not self._backend.template_adds(self.bos_id):
            bos = self._text(self.bos_id)
            fast = tokenizers.Tokenizer.from_str(fast.to_str())  # a copy: this tokenizer stays unchanged
            fast.post_processor = processors.TemplateProcessing(
                single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, self.bos_id)]
            )
        fast.save(str(folder / "tokenizer.json"))
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": self.adds_bos}
        config["clean_up_tokenization_spaces"] = False
        for name, token_id in (("bos_token", self.bos_id), ("eos_token", self.eos_id)):
            if token_id is not None:
                config[name] = fast.id_to_token(token_id)
        tokens = {name: text for name, text in self.chat.tokens.items() if fast.token_to_id(text) is not None}
        config = {**config, **{name: text for name, text in tokens.items() if name not in config}}
        if list(self.chat.by_name) == ["default"]:
            config["chat_template"] = self.chat.source()
        elif self.chat:
            config["chat_template"] = [{"name": n, "template": t} for n, t in self.chat.by_name.items()]
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False))
        if self.stop_ids:  # tokenizer_config.json has no key for several; keep the file's other settings
            path = folder / "generation_config.json"
            kept = read_json(path) if path.is_file() else {}
            ends = self.stop_ids[0] if len(self.stop_ids) == 1 else list(self.stop_ids)
            path.write_text(json.dumps({**kept, "eos_token_id": ends}, indent=2))
        if self._backend.model_proto:
            (folder / "tokenizer.model").write_bytes(self._backend.model_proto)

    def gguf_metadata(self, size: int, samples: Sequence[str]) -> dict[str, Any]:
        """Metadata of a GGUF file, without chat templates.

        Args:
            size: of the model's vocabulary.
            samples: texts of the kind that the model works on; on these the file must give the same tokens.

        Raises:
            InputError: GGUF cannot say how this tokenizer works.
        """
        keys = gguf_vocabulary_writing.metadata(self._backend, size, samples)
        ids = {"bos": self.bos_id, "eos": self.eos_id, "eot": self.turn_end_id}
        keys |= {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None}
        return {**keys, "tokenizer.ggml.add_bos_token": self.adds_bos}
