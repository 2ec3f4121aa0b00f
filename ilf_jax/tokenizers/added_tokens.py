"""Tokens beside the vocabulary: those that a folder's configuration files list, added as transformers adds them."""

from collections.abc import Mapping
from typing import Any

import tokenizers

from ilf_jax.errors import InputError
from ilf_jax.tokenizers import backend

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


def content(token: Any, where: object) -> str | None:
    """The text of a token that a configuration names: a string, or an object with `content`; None is none.

    Raises:
        InputError: it is neither.
    """
    text = token.get("content") if isinstance(token, dict) else token
    if token is None or isinstance(text, str):
        return text
    raise InputError(f"{where}: a token must be a string or an object with a string `content`, not {token!r:.80}")


def _token(value: Any, where: object, **flags: bool) -> tokenizers.AddedToken:
    text = content(value, where)
    if not text:
        raise InputError(f"{where}: an added token must not be empty")
    if isinstance(value, dict):
        given = {name: value[name] for name in _FLAGS if name in value}
        if any(type(flag) is not bool for flag in given.values()):
            raise InputError(f"{where}: the flags of the token {text!r} must be true or false, not {given}")
        flags = {**given, **flags}
    flags.setdefault("normalized", not flags.get("special", False))
    return tokenizers.AddedToken(text, **flags)


def add_listed(
    tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any], added: Mapping[str, Any], where: object
) -> None:
    """Adds the tokens that `settings` and added_tokens.json list and the tokenizer lacks.

    Args:
        tokenizer: gets the tokens.
        settings: of tokenizer_config.json and special_tokens_map.json, with the defaults of the tokenizer's class.
        added: of added_tokens.json: {token: id}; used where settings have no `added_tokens_decoder`.
        where: the folder, for messages.

    Raises:
        InputError: an entry is malformed, or a token would get another id than is listed.
    """
    named = [settings[name] for name in NAMES if settings.get(name) is not None]
    special: dict[str, tokenizers.AddedToken] = {}
    for value in [*named, *_lists(settings, where)]:
        special.setdefault(content(value, where) or "", _token(value, where, special=True))
    listed = _with_ids(settings, added, set(special), where)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for i, token in sorted(listed.items()):
        if token.content in known:
            continue
        in_vocabulary = tokenizer.token_to_id(token.content)
        if token.content in special and not token.special:
            token.special = True
        backend.add_tokens(tokenizer, [token], where)
        known.add(token.content)
        given = tokenizer.token_to_id(token.content)
        if in_vocabulary is None and given != i:
            raise InputError(f"{where}: the added token {token.content!r} is listed with the id {i}, and the next free "
                             f"one is {given}; list a token for each id between, or save a tokenizer.json")
    backend.add_tokens(tokenizer, [token for text, token in special.items() if text not in known], where)


def _lists(settings: Mapping[str, Any], where: object) -> list[Any]:
    values: list[Any] = []
    for name in _LISTS:
        listed = settings.get(name) or []
        if isinstance(listed, dict):  # {name of the token: token}
            listed = list(listed.values())
        if not isinstance(listed, list):
            raise InputError(f"{where}: {name} must be a list of tokens, not {type(listed).__name__}")
        values += listed
    return values


def _with_ids(
    settings: Mapping[str, Any], added: Mapping[str, Any], special: set[str], where: object
) -> dict[int, tokenizers.AddedToken]:
    listed = settings.get("added_tokens_decoder")
    if listed is None:
        ids = backend.ids_of(added, f"{where}/added_tokens.json") if added else {}
        return {i: _token(text, where, special=text in special) for text, i in ids.items()}
    if not isinstance(listed, dict):
        raise InputError(f"{where}: added_tokens_decoder must be an object {{id: token}}, not {type(listed).__name__}")
    tokens = {}
    for key, value in listed.items():
        if not key.isascii() or not key.isdigit() or len(key) > 9 or int(key) >= backend.MAX_TOKENS:
            raise InputError(f"{where}: added_tokens_decoder has the id {key[:20]!r}; allowed: whole numbers in "
                             f"0..{backend.MAX_TOKENS - 1}")
        if not isinstance(value, dict):
            raise InputError(f"{where}: added_tokens_decoder[{key!r}] must be an object, not {type(value).__name__}")
        tokens[int(key)] = _token(value, where)
    return tokens
