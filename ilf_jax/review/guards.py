"""What stands between the network and the page: checks of every request, security headers of every answer.

One ASGI middleware, so that no page can forget a check. Requests that fail are answered here, and never reach a page.
"""

import asyncio
import dataclasses
import hashlib
import hmac
import http.cookies
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ilf_jax.review.store import Store

MAX_BODY = 8 << 20
"""Bytes of a request's body: some texts of a million characters."""
BODY_SECONDS = 30.0
CSRF_HEADER = "x-csrf-token"
SESSION, CSRF = "ilf_session", "ilf_csrf"
"""Keys of a request's scope: the hash of its session, and the token that its writes must carry."""
OPEN_PATHS = ("/enter", "/static/")
"""What a browser without a session may ask for."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "
                               "'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
}
_SAFE = ("GET", "HEAD")
_REMEDY = "open the link that `ilf-jax review` has printed"


class Access:
    """The token that a browser shows once, and the sessions that it gets for it."""

    def __init__(self, store: Store, token: str = "", renewed: Callable[[str], None] = lambda token: None) -> None:
        """
        Args:
            token: given by the user, for as many browsers as like; "": random ones, each for one browser.
            renewed: called with each random token once the one before has been used.
        """
        self._store, self._given, self._renewed = store, token, renewed
        self.token = token or secrets.token_urlsafe(32)
        self._secret = store.meta("secret", secrets.token_hex(32))
        self._lock = threading.Lock()

    def enter(self, token: str, reviewer: str) -> str | None:
        """A session for a browser that shows the token; None if it is not the token."""
        with self._lock:
            if not hmac.compare_digest(token.encode(), self.token.encode()):
                return None
            if not self._given:
                self.token = secrets.token_urlsafe(32)
        session = secrets.token_urlsafe(32)
        self._store.add_session(hashed(session), reviewer)
        if not self._given:
            self._renewed(self.token)
        return session

    def csrf(self, session: str) -> str:
        """What the pages of a session carry, and its writes must."""
        return hmac.new(self._secret.encode(), session.encode(), hashlib.sha256).hexdigest()


def hashed(session: str) -> str:
    """A session as the store holds it."""
    return hashlib.sha256(session.encode()).hexdigest()


class RateLimit:
    """A bucket of tokens for each caller: `burst` requests at once, then `rate` a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, caller: str) -> bool:
        """Takes a token of a caller, if there is one."""
        now = time.monotonic()
        if len(self._buckets) > 10_000:  # forgets who has been away for long enough to have a full bucket
            self._buckets = {c: b for c, b in self._buckets.items() if (now - b[1]) * self._rate < self._burst}
        left, before = self._buckets.get(caller, (float(self._burst), now))
        left = min(self._burst, left + (now - before) * self._rate)
        self._buckets[caller] = (left - 1 if left >= 1 else left, now)
        return left >= 1


@dataclasses.dataclass(frozen=True)
class Limits:
    """Requests of one session, and tries to enter from one address."""

    requests: RateLimit = dataclasses.field(default_factory=lambda: RateLimit(100, 400))
    entries: RateLimit = dataclasses.field(default_factory=lambda: RateLimit(0.2, 10))


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, access: Access, store: Store, hosts: Collection[str], cookie: str,
                 limits: Limits | None = None) -> None:
        """
        Args:
            hosts: what may stand in the header Host, with the port: another name is a page of somebody else whose
                name was rebound to this address.
            cookie: its name.
        """
        self._app, self._access, self._store = app, access, store
        self._hosts, self._cookie, self._limits = frozenset(hosts), cookie, limits or Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks WebSocket; the server closes the connection

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        if scope["method"] in _SAFE:
            await self._app(scope, receive, send_with_headers)
            return
        body = await _read_body(receive)
        if isinstance(body, Response):
            await body(scope, receive, send_with_headers)
            return
        await self._app(scope, _replay(body, receive), send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("this page has no such host name (Host header)\n", 421)
        if scope["method"] not in (*_SAFE, "POST"):
            return PlainTextResponse("only GET and POST are answered\n", 405)
        session = _cookie(headers, self._cookie)
        client = scope["client"][0] if scope.get("client") else ""
        known = self._store.reviewer_of_session(hashed(session)) is not None if session else False
        if scope["path"] == "/enter":
            allowed = self._limits.entries.allows(client)
        else:
            allowed = self._limits.requests.allows(hashed(session) if known else client)
        if not allowed:
            return PlainTextResponse("too many requests; wait a moment\n", 429, {"retry-after": "1"})
        if not known:
            is_open = any(scope["path"] == path or (path.endswith("/") and scope["path"].startswith(path))
                          for path in OPEN_PATHS)
            return None if is_open and scope["method"] in _SAFE else PlainTextResponse(f"{_REMEDY}\n", 403)
        scope[SESSION], scope[CSRF] = hashed(session), self._access.csrf(session)
        if scope["method"] in _SAFE:
            return None
        if not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), scope[CSRF].encode()):
            return PlainTextResponse("the request does not come from a page of this server; reload it\n", 403)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != headers["host"].lower():
            return PlainTextResponse("the request comes from another site\n", 403)
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return PlainTextResponse("the body must be JSON\n", 415)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return _too_large()
        return None


def _too_large() -> Response:
    return PlainTextResponse(f"at most {MAX_BODY >> 20} MB can be sent at once\n", 413)


async def _read_body(receive: Receive) -> bytes | Response:
    """The body, or the answer to one that is too long or too slow."""
    body = b""

    async def read() -> bool:
        nonlocal body
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return True
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                return False
            if not message.get("more_body"):
                return True

    try:
        fits = await asyncio.wait_for(read(), BODY_SECONDS)
    except TimeoutError:
        return PlainTextResponse("the request came too slowly\n", 408)
    return body if fits else _too_large()


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _cookie(headers: Headers, name: str) -> str:
    try:
        jar = http.cookies.SimpleCookie(headers.get("cookie", ""))
    except http.cookies.CookieError:
        return ""
    return jar[name].value if name in jar else ""
