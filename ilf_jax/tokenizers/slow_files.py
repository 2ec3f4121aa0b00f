"""Files of slow tokenizers, tokenizer.model or vocab.json and merges.txt, read as transformers' classes do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from ilf_jax.errors import InputError
from ilf_jax.tokenizers import backend, sentencepiece_model
from ilf_jax.tokenizers.sentencepiece_model import Spaces

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# What a class calls its tokens where tokenizer_config.json does not.
_END = "<|endoftext|>"
_TOKENS: dict[str, dict[str, str]] = {
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GemmaTokenizer": {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
                       "mask_token": "<mask>"},
    "GPT2Tokenizer": {"unk_token": _END, "bos_token": _END, "eos_token": _END},
    "Qwen2Tokenizer": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
}
_ALIASES = {"CodeGenTokenizer": "GPT2Tokenizer", "CodeLlamaTokenizer": "LlamaTokenizer"}
BYTE_LEVEL = ("GPT2Tokenizer", "Qwen2Tokenizer")
# What transformers takes for a model type whose tokenizer_config.json names no class.
_OF_MODEL = {
    **dict.fromkeys(("gpt2", "opt", "phi", "gptj", "gpt_neo", "starcoder2", "codegen"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "GemmaTokenizer"),
    "llama": "LlamaTokenizer",
}


def class_of(settings: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The name of the tokenizer's class, "" if neither tokenizer_config.json nor config.json tells."""
    model_type, name = model.get("model_type"), settings.get("tokenizer_class") or model.get("tokenizer_class")
    if model_type == "qwen2" or not isinstance(name, str):  # transformers trusts no class that a qwen2 folder names
        return _OF_MODEL.get(model_type, "") if isinstance(model_type, str) else ""
    name = name.removesuffix("Fast")
    return _ALIASES.get(name, name)


def default_tokens(name: str) -> dict[str, str]:
    """{"bos_token": ...} as the class has them."""
    return _TOKENS.get(name, {})


def read_sentencepiece(path: Path, name: str, settings: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, bytes]:
    """The tokenizer of a tokenizer.model, and the file's bytes.

    Raises:
        InputError: it cannot be read.
    """
    data = read_bytes(path)
    proto = sentencepiece_model.parse(data, path)
    spaces = None
    if name == "GemmaTokenizer":
        spaces = Spaces.NONE
    elif name == "LlamaTokenizer" and proto.trainer_spec.model_type == sentencepiece_model.BPE:
        if settings.get("add_prefix_space") is False:
            spaces = Spaces.NONE
        else:
            spaces = Spaces.EACH_PART_WITHOUT if settings.get("legacy", False) else Spaces.TEXT_WITHOUT
    return sentencepiece_model.convert(proto, str(path), spaces), data


def read_byte_level(folder: Path, name: str, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a vocab.json and a merges.txt.

    Raises:
        InputError: one of them cannot be read, or belongs to a class whose rules are not known here.
    """
    vocab_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    if name not in BYTE_LEVEL:
        raise InputError(f"{folder}: vocab.json of a tokenizer of class {name}; allowed: {', '.join(BYTE_LEVEL)}. "
                         "transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes a "
                         "tokenizer.json, which is read whatever the class")
    if not merges_path.is_file():
        raise InputError(f"{folder}: has a vocab.json, but no merges.txt")
    vocab = backend.ids_of(parse_json(vocab_path), vocab_path)
    merges = _merges(merges_path, vocab)
    add_prefix_space = bool(settings.get("add_prefix_space", False))
    with backend.refusing(vocab_path):
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, fuse_unk=False))
        if name == "Qwen2Tokenizer":
            tokenizer.normalizer = normalizers.NFC()
            words: Any = pre_tokenizers.Split(Regex(LLAMA3_WORDS.format(digits="")), behavior="isolated")
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [words, pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
        tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(path: Path, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    try:
        lines = read_bytes(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from error
    merges = []
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        left, blank, right = line.partition(" ")
        if not blank or not left or not right or " " in right:
            raise InputError(f"{path}:{number}: expected two tokens with a space between, not {line[:80]!r}")
        for token in (left, right, left + right):
            if token not in vocab:
                raise InputError(f"{path}:{number}: {token[:80]!r} is not in vocab.json")
        merges.append((left, right))
    return merges


def read_bytes(path: Path) -> bytes:
    """Raises InputError if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    data = read_bytes(path)
    try:
        value = json.loads(data)
        if b"\\ud" in data.lower():  # half of a surrogate pair is no character, and no library takes it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: holds half of a surrogate pair, {error.object[error.start]!a}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, not a {type(value).__name__}")
    return value
