"""What a chat completion says: its text, its likeliest first tokens, and what it cost."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any


class MalformedReplyError(Exception):
    """A server's answer is no chat completion."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """One completion.

    Attributes:
        text: what the model wrote.
        stopped: whether it ended by itself, rather than cut at the token limit.
        tokens: how many it wrote, as the server counts.
        spent: tokens of prompt and completion, as the server counts.
        top: the likeliest first tokens with their log-probabilities, in nats; empty where the server gives none.
    """

    text: str
    stopped: bool
    tokens: int = 0
    spent: int = 0
    top: tuple[tuple[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**dataclasses.asdict(self), "top": [list(pair) for pair in self.top]}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Reply":
        """The reply that `to_json` wrote."""
        return cls(**{**row, "top": tuple((str(token), float(logprob)) for token, logprob in row["top"])})


def read_reply(text: str) -> Reply:
    """The first choice of a chat completion. Raises MalformedReplyError, which says what is wrong with it."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise MalformedReplyError("the answer is not JSON") from e
    try:
        choice = row["choices"][0]
        content = choice["message"].get("content") or ""
        usage = row.get("usage") or {}
        written, asked = _count(usage.get("completion_tokens")), _count(usage.get("prompt_tokens"))
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        likeliest = (logprobs[0].get("top_logprobs") or []) if logprobs else []
        top = [(token["token"], token["logprob"]) for token in likeliest]
    except (KeyError, IndexError, TypeError, AttributeError) as e:
        raise MalformedReplyError("the answer is JSON, but no chat completion") from e
    if not isinstance(content, str) or not all(isinstance(t, str) and _is_logprob(p) for t, p in top):
        raise MalformedReplyError("the answer holds other values than a chat completion may")
    whole = content.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written to disk
    pairs = tuple((t.encode("utf-8", "replace").decode("utf-8"), float(p)) for t, p in top if math.isfinite(p))
    return Reply(whole, choice.get("finish_reason") != "length", written, written + asked, pairs)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0


def _is_logprob(value: Any) -> bool:
    """-inf stands for tokens that cannot come."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= 1e-3
