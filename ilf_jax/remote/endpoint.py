"""HTTP to OpenAI-compatible endpoints: one request, tried again while that may help, within the run's budget.

The wire format is that of OpenAI's chat completions, which vLLM, Ollama and llama.cpp's server speak, too
(https://platform.openai.com/docs/api-reference/chat).
"""

import asyncio
import dataclasses
import email.utils
import json
import math
import random
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from ilf_jax.config_sections import Api
from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.remote.api_uris import Address
from ilf_jax.remote.kept_answers import KeptAnswers, digest_of
from ilf_jax.remote.replies import MalformedReplyError, Reply, read_reply
from ilf_jax.runtime import progress

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
"""Seconds; pauses double from the first, and are drawn from the upper half, so that clients do not come back together.
A server that asks for more than twice the longest is not waited for."""
_LARGEST_REPLY = 16 << 20
_SHOWN = 200  # characters of what a server said
_WORTH_ANOTHER_TRY = (408, 409, 425, 429)  # and all of 500 and above


class RefusedError(InputError):
    """The server understood a request and will not answer it, however often it is sent."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    """A try that may succeed when it is repeated; `malformed` says that the server did answer."""

    reason: str
    pause: float | None = None
    malformed: bool = False


class Endpoint:
    """One server, for one role. Used by the event loop of `Endpoints` alone."""

    def __init__(
        self, where: str, address: Address, key: str | None, settings: Api, kept: KeptAnswers,
        limit: asyncio.Semaphore,
    ) -> None:
        """Connects to nothing yet.

        Args:
            where: the config key of the checkpoint, for messages.
            key: is sent as bearer token; nothing writes it anywhere.
            settings: config.api.
            kept: answers of the run, with what they have cost.
            limit: requests that may be under way, all roles together.
        """
        self._where, self.address, self._key, self._settings = where, address, key, settings
        self._kept, self._limit = kept, limit
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # No redirects: they would take the key elsewhere. The time limit is that of a whole request, see `_post`.
        self._client = httpx2.AsyncClient(headers=headers, timeout=None, follow_redirects=False)
        self._under_way: dict[str, asyncio.Task[Reply]] = {}
        self._failed: Exception | None = None
        self._logged_at = -math.inf  # when it was last logged that the server is waited for

    async def ask(self, body: Mapping[str, Any], *, patient: bool = True) -> Reply:
        """The answer to a request: the kept one, else the server's, which is kept.

        Args:
            body: JSON of the request, without the model's name.
            patient: False to give up at once where nothing answers at the address.

        Raises:
            RefusedError: the server refuses the request: key, address, model, or what it says.
            InputError: the budget is spent, or the server's answers cannot be understood.
            TryAgainError: the server cannot be reached, or is overloaded, for longer than config.api.retries allow.
        """
        request = {"url": self.address.url, "body": {"model": self.address.model, **body}}
        digest = digest_of(request)
        kept = self._kept.get(digest)
        if kept is not None:
            return Reply.from_json(kept)
        if digest not in self._under_way:  # equal questions are asked once
            self._under_way[digest] = asyncio.ensure_future(self._send(digest, request, patient))
        try:
            return await asyncio.shield(self._under_way[digest])
        finally:
            self._under_way.pop(digest, None)

    def keep(self, body: Mapping[str, Any], reply: Reply) -> None:
        """Keeps an answer to a request that the server refuses, so that it is not sent again."""
        request = {"url": self.address.url, "body": {"model": self.address.model, **body}}
        self._kept.put(digest_of(request), request, reply.to_json(), 0)

    async def _send(self, digest: str, request: Mapping[str, Any], patient: bool) -> Reply:
        async with self._limit:
            if self._failed is not None:  # what waited in line behind it would cost money for nothing
                raise self._failed
            try:
                reply = await self._tried(request["body"], patient)
            except RefusedError:
                raise
            except (InputError, TryAgainError) as e:
                self._failed = e
                raise
        self._kept.put(digest, request, reply.to_json(), reply.spent)
        return reply

    async def _tried(self, body: Mapping[str, Any], patient: bool) -> Reply:
        failure = _Failure("")
        for attempt in range(self._settings.retries + 1):
            self._kept.reserve(self._settings)
            try:
                outcome = await self._post(body)
            finally:
                self._kept.release()
            if isinstance(outcome, Reply):
                return outcome
            failure = outcome
            last = attempt == self._settings.retries or not (patient or failure.malformed or failure.pause is not None)
            if last:
                break
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1)
            if failure.pause is not None:
                if failure.pause > 2 * _LONGEST_PAUSE:
                    break
                pause = max(pause, failure.pause)
            if pause > 5 and time.monotonic() - self._logged_at > progress.SECONDS_BETWEEN_LINES:
                self._logged_at = time.monotonic()
                progress.log(f"{self.address.url}: {failure.reason}; the next try is in {pause:.0f} s")
            await asyncio.sleep(pause)
        kind = InputError if failure.malformed or not patient else TryAgainError
        raise kind(f"{self._where}: {self.address.url}: {failure.reason}")

    async def _post(self, body: Mapping[str, Any]) -> Reply | _Failure:
        try:
            async with asyncio.timeout(self._settings.timeout), self._client.stream(
                    "POST", f"{self.address.url}/chat/completions", json=dict(body)) as response:
                data = bytearray()
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > _LARGEST_REPLY:
                        return _Failure(f"its answer is longer than {_LARGEST_REPLY >> 20} MiB", malformed=True)
        except TimeoutError:
            return _Failure(f"no answer within config.api.timeout={self._settings.timeout:g} s")
        except httpx2.HTTPError as e:
            reason = self._without_key(str(e) or type(e).__name__)
            return _Failure(f"cannot be reached: {reason}; is the server running?")
        status, text = response.status_code, bytes(data).decode("utf-8", "replace")
        if status == 200:
            try:
                return read_reply(self._without_key(text))
            except MalformedReplyError as e:
                return _Failure(f"{e}: {self._said(text)}", malformed=True)
        said = self._said(text)
        if status in _WORTH_ANOTHER_TRY or status >= 500:
            pause = _seconds(response.headers.get("retry-after"))
            asked = f", and asks to wait {pause:.0f} s" if pause else ""
            return _Failure(f"HTTP {status}{' (too many requests)' * (status == 429)}{asked}: {said}", pause or 0.0)
        raise RefusedError(f"{self._where}: {self.address.url}: HTTP {status}: {said}{self._remedy(status)}")

    def _remedy(self, status: int) -> str:
        variable = f"{self._where.rpartition('.')[0]}.api_key_variable"
        if status in (401, 403) and self._key is None:
            return f"; it wants a key: name the environment variable that holds it by {variable}"
        if status in (401, 403):
            return f"; the key in the variable that {variable} names is refused"
        if status == 404:
            return (f"; is {self.address.model!r} the name of a model there, and does the URL end as the "
                    "server's does, in /v1 mostly?")
        if 300 <= status < 400:
            return "; redirects are not followed, for they would take the key elsewhere: give the address itself"
        return ""

    def _said(self, text: str) -> str:
        """What the server says, short, on one line; of JSON as OpenAI writes it, the message alone."""
        try:
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # not JSON, or another one: the text itself
        line = " ".join(self._without_key(text).split())
        return (line[:_SHOWN] + "..." if len(line) > _SHOWN else line) or "(nothing)"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _seconds(header: str | None) -> float | None:
    """What Retry-After says (RFC 9110, 10.2.3): seconds, or a date."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
