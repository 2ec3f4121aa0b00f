"""Reads a tokenizer from a folder or a file: the backend, the special ids and the chat template."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from ilf_jax.errors import InputError, shown
from ilf_jax.models import checkpoint_io
from ilf_jax.tokenizers import added_tokens, chat_templates, gguf_vocabulary, sentencepiece_model, slow_files
from ilf_jax.tokenizers.backend import Backend, ids_of, refusing
from ilf_jax.tokenizers.chat_templates import NO_TEMPLATES, ChatTemplates

# Tokens that end a turn or a document, if the vocabulary marks them as special. Files often name only one.
_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>")
# Special tokens as templates and as GGUF files call them.
_GGUF_TOKENS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a Tokenizer is made of; see its attributes."""

    backend: Backend
    bos_id: int | None = None
    eos_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    adds_bos: bool = False
    chat: ChatTemplates = NO_TEMPLATES
    where: str = "tokenizer"

    def __post_init__(self) -> None:
        """Raises InputError if an id is not one of the vocabulary."""
        ids = {"bos": (self.bos_id,), "eos": (self.eos_id,), "end": self.stop_ids}
        for name, i in ((name, i) for name, several in ids.items() for i in several if i is not None):
            if type(i) is not int or not 0 <= i < self.backend.size:
                raise InputError(f"{self.where}: the {name} token has the id {i!r}, and the vocabulary has the ids "
                                 f"0..{self.backend.size - 1}")


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
    return slow_files.parse_json(path) if path.is_file() else {}


def _settings(folder: Path) -> dict[str, Any]:
    """Of tokenizer_config.json. An older special_tokens_map.json counts where tokens are not listed with their ids."""
    settings = _optional(folder / "tokenizer_config.json")
    if settings.get("added_tokens_decoder") is None:
        settings.update(_optional(folder / "special_tokens_map.json"))
    return settings


def _parts(folder: Path, path: Path) -> Parts:
    model, generation = _optional(folder / "config.json"), _optional(folder / "generation_config.json")
    given = _settings(folder)
    backend, settings = _backend(folder, path, given, model)
    chat = chat_templates.ChatTemplates(*_chat_templates(folder, settings))
    # The ends that an export gives generation are those of its task, its stop strings among them.
    stops = [i for source in ((model,) if chat.has_task_prompt else (generation, model))
             for i in _as_list(source.get("eos_token_id"))]
    ids: dict[str, Any] = {}
    for end in ("bos", "eos"):
        text = added_tokens.content(settings.get(f"{end}_token"), folder / "tokenizer_config.json")
        known = _as_list(generation.get(f"{end}_token_id", model.get(f"{end}_token_id")))
        ids[end] = backend.token_id(text) if text else (known[0] if known else None)
        if text and ids[end] is None:
            raise InputError(f"{folder}: the {end} token {text!r} is not in the vocabulary")
    adds_bos = settings.get("add_bos_token")
    if adds_bos is None:
        # Models that use a sentencepiece file were trained with BOS; other files have a template that tells.
        adds_bos = path.suffix == ".model" or backend.template_adds(ids["bos"])
    return Parts(
        backend, ids["bos"], ids["eos"], (*stops, *_ends(backend)), bool(adds_bos), chat.without_task_prompt(),
        str(path),
    )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _ends(backend: Backend) -> list[int]:
    ends = (backend.token_id(text) for text in _END_TOKENS)
    return [i for i in ends if i in backend.control_ids]


def _chat_templates(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str], str]:
    """The templates by name, what they know special tokens by, and where they stand."""
    where = folder / "tokenizer_config.json"
    texts = {name: added_tokens.content(token, where) for name, token in settings.items()
             if name.endswith("_token") and isinstance(token, str | Mapping)}
    tokens = {name: text for name, text in texts.items() if text is not None}
    templates = chat_templates.named(settings.get("chat_template"), str(where))
    further = folder / "additional_chat_templates"
    if (folder / "chat_template.jinja").is_file() or further.is_dir():  # they replace the one among the settings
        where = folder / "chat_template.jinja"
        files = {"default": where} if where.is_file() else {}
        files |= {path.stem: path for path in sorted(further.glob("*.jinja"))}
        templates = {name: _template_text(path) for name, path in files.items()}
    return templates, tokens, str(where if templates else folder)


def _template_text(path: Path) -> str:
    try:
        return slow_files.read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from error


def _backend(
    folder: Path, path: Path, given: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[Backend, dict[str, Any]]:
    """The backend, and the given settings with the defaults of the tokenizer's class."""
    name = slow_files.class_of(given, model)
    settings, proto, added = dict(given), b"", {}
    if path.suffix == ".json" and path.name != "vocab.json":
        fast = read_fast(path)
    else:
        added = _optional(folder / "added_tokens.json")
        if path.suffix == ".model":
            fast, proto = slow_files.read_sentencepiece(path, name, given)
            settings = {**sentencepiece_model.named_tokens(proto), **slow_files.default_tokens(name), **given}
        else:
            name = name or slow_files.BYTE_LEVEL[0]
            fast = slow_files.read_byte_level(folder, name, given)
            settings = {**slow_files.default_tokens(name), **given}
    added_tokens.add_listed(fast, settings, added, folder)
    return Backend(fast, str(path), proto), settings


def read_fast(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        InputError: it cannot be read, or gives ids out of range or twice.
    """
    data = slow_files.parse_json(path)
    model = data.get("model")
    if isinstance(model, dict):
        _check_subword_prefix(model, path)
    with refusing(path):
        fast = tokenizers.Tokenizer.from_file(str(path))
    if isinstance(model, dict) and isinstance(model.get("vocab"), dict):
        ids_of(model["vocab"], f"{path}: model.vocab")
    for token in data.get("added_tokens") or []:  # the library numbers them anew and is silent where that differs
        given = fast.token_to_id(token["content"])
        if given != token["id"]:
            raise InputError(f"{path}: the added token {token['content']!r} has the id {token['id']}; the vocabulary "
                             f"and the tokens before it make it {given}")
    return fast


def _check_subword_prefix(model: Mapping[str, Any], path: Path) -> None:
    """Raises InputError if what a merge appends lacks the prefix of inner pieces.

    The library cuts as many bytes off it unseen, in the middle of a letter too, and ends the process.
    """
    prefix, merges = model.get("continuing_subword_prefix"), model.get("merges")
    if not (isinstance(prefix, str) and prefix and isinstance(merges, list)):
        return
    for merge in merges:
        pieces = merge.split(" ") if isinstance(merge, str) else merge if isinstance(merge, list) else []
        appended = pieces[1] if len(pieces) == 2 else ""
        if isinstance(appended, str) and not appended.startswith(prefix):
            raise InputError(f"{path}: model.continuing_subword_prefix is {shown(prefix)}, but the merge "
                             f"{shown(merge)} appends a piece without it")


def from_gguf(path: str) -> Parts:
    """The vocabulary in a GGUF file's metadata."""
    vocabulary = gguf_vocabulary.Vocabulary(checkpoint_io.open_gguf(path).metadata, path)
    fast, proto, adds_bos = vocabulary.tokenizer()
    backend = Backend(fast, path, proto)
    number = vocabulary.number
    named = [i for key in ("eot_token_id", "eom_token_id") if (i := number(key)) is not None]
    return Parts(
        backend, number("bos_token_id"), number("eos_token_id"), (*named, *_ends(backend)),
        vocabulary.flag("add_bos_token", adds_bos), _gguf_templates(vocabulary, backend, path), path,
    )


def _gguf_templates(vocabulary: gguf_vocabulary.Vocabulary, backend: Backend, path: str) -> ChatTemplates:
    key = "tokenizer.chat_template"
    entries = [{"name": name.removeprefix(f"{key}.") if name != key else "default", "template": template}
               for name, template in vocabulary.metadata.items() if name == key or name.startswith(f"{key}.")]
    ids = {name: vocabulary.number(f"{key}_token_id") for name, key in _GGUF_TOKENS.items()}
    tokens = {f"{name}_token": backend.piece(i) for name, i in ids.items() if i is not None}
    return ChatTemplates(chat_templates.named(entries, path), tokens, path).without_task_prompt()
