"""api:URL#MODEL, the checkpoint URI of a model behind an OpenAI-compatible endpoint, and the variable with its key."""

import dataclasses
import os
import re
import urllib.parse

from ilf_jax.errors import InputError, shown

FORM = "api:URL#MODEL"
EXAMPLE = "api:http://127.0.0.1:8000/v1#MODEL"
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a model answers.

    Attributes:
        url: base of the endpoint, without a slash at its end: http://127.0.0.1:8000/v1.
        model: what the server calls the model.
    """

    url: str
    model: str


def is_api(uri: str) -> bool:
    """Whether a checkpoint's URI names an endpoint."""
    return uri.startswith("api:")


def parse(uri: str, where: str) -> Address:
    """The endpoint and the model of an api: URI.

    Args:
        where: the config key, for messages.

    Raises:
        InputError: it is not of the form api:URL#MODEL, or holds a password or a query, which would be written to disk.
    """
    url, _, model = uri.removeprefix("api:").partition("#")
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # checked when it is read
    except ValueError as e:
        raise InputError(f"{where}: {shown(uri)} is not a URL: {e}; expected {EXAMPLE}") from e
    if parts.username is not None or parts.password is not None or parts.query:
        raise InputError(f"{where}: the URL holds a user, a password or a query, which would be written into the work "
                         f"folder; expected {EXAMPLE}, and the key in an environment variable, see {_key_of(where)}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{where}: {shown(uri)} names no http:// or https:// address; expected {EXAMPLE}")
    if not model.strip():
        raise InputError(f"{where}: {shown(uri)} names no model; expected {EXAMPLE}")
    return Address(url.rstrip("/"), model)


def read_key(variable: str | None, where: str) -> str | None:
    """The key in an environment variable; None where none is named.

    The messages never show what was given: it may be the key itself.

    Raises:
        InputError: it cannot be the name of a variable, the variable is not set, or holds what no header may hold.
    """
    if variable is None:
        return None
    if not _VARIABLE.fullmatch(variable):
        raise InputError(f"{where}: expected the name of an environment variable, OPENAI_API_KEY say, in capital "
                         "letters, digits and '_'; the key itself must not stand in a configuration")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"{where}: the environment variable that it names is not set, or empty; export it first")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{where}: the environment variable that it names holds a character that no HTTP header may")
    return key


def _key_of(where: str) -> str:
    return where.rpartition(".")[0] + ".api_key_variable"
