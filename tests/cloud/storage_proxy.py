"""An HTTP proxy in front of an object store on this machine: it counts, delays, fails, goes away, and keeps conditions.

It listens on a port of 127.0.0.1, which clients take for the store. Every request is sent on over a connection of its
own, with the client's `Host`, so that addresses in answers lead back through the proxy.
"""

import collections
import contextlib
import dataclasses
import http.client
import http.server
import json
import random
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "content-length", "te", "upgrade"})
_GCS_OBJECT = re.compile(r"(?:/download)?(?:/storage/v1)?/b/(?P<bucket>[^/]+)/o/(?P<name>.+)")
_GCS_UPLOAD = re.compile(r"(?:/upload)?(?:/storage/v1)?/b/(?P<bucket>[^/]+)/o")


@dataclasses.dataclass(frozen=True)
class Request:
    """One request that came in."""

    number: int  # from 1
    method: str
    path: str  # without the query, unquoted
    kind: str  # read, write, delete, stat, list, or bucket: a question about the bucket itself
    name: str  # of the object, without the bucket; of a listing: the prefix
    start: float  # time.monotonic()


class Proxy:
    """Use as a context; `url` is its address. All settings may be changed while it runs.

    Attributes:
        delay: seconds that every request waits before it is sent on.
        failing: share of requests that are answered with `status` and not sent on; which, `seed` says.
        out: while True, every connection is reset before a request is sent on.
        before: called with each request before it is sent on; what it kills has sent it in vain.
        lose: called with each request before it is sent on; where it returns True, the answer is not passed on, and the
            connection is reset.
        requests: all that came in, in order.
    """

    def __init__(self, upstream: tuple[str, int], conditions: bool = False, seed: int = 0) -> None:
        """`conditions`: enforce ifGenerationMatch of writes, which the store ignores. Else writes only take turns."""
        self.delay, self.failing, self.status, self.out = 0.0, 0.0, 503, False
        self.before: Callable[[Request], None] = lambda request: None
        self.lose: Callable[[Request], bool] = lambda request: False
        self.requests: list[Request] = []
        self._upstream, self._conditions, self._random = upstream, conditions, random.Random(seed)
        self._lock, self._of_object = threading.Lock(), collections.defaultdict(threading.Lock)

    def __enter__(self) -> "Proxy":
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def settings(self, **values: object) -> Iterator[None]:
        """Inside, attributes have other values, and `requests` starts empty."""
        before = {name: getattr(self, name) for name in values}
        self.requests = []
        for name, value in values.items():
            setattr(self, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def note(self, method: str, target: str, body: bytes) -> Request:
        """The request, counted."""
        path, _, query = target.partition("?")
        kind, name = _meaning(method, path, urllib.parse.parse_qs(query, keep_blank_values=True), body)
        with self._lock:
            request = Request(len(self.requests) + 1, method, urllib.parse.unquote(path), kind, name, time.monotonic())
            self.requests.append(request)
        return request

    def fails(self) -> bool:
        """Whether the next request is one of those that fail."""
        with self._lock:
            return self.failing > 0 and self._random.random() < self.failing

    def answer(
        self, request: Request, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the store says: status, headers, body. Writes of one object take turns."""
        if request.method in ("GET", "HEAD"):
            return self._forward(request.method, target, headers, body)
        with self._of_object[request.name]:
            wanted = urllib.parse.parse_qs(target.partition("?")[2]).get("ifGenerationMatch")
            if self._conditions and wanted and self._generation(target, request) != wanted[0]:
                error = {"error": {"code": 412, "message": "At least one of the pre-conditions you specified did not "
                                   "hold.", "errors": [{"reason": "conditionNotMet", "domain": "global"}]}}
                return 412, [("Content-Type", "application/json")], json.dumps(error).encode()
            return self._forward(request.method, target, headers, body)

    def _generation(self, target: str, request: Request) -> str:
        """Of the object in the store; 0 where there is none."""
        bucket = re.search(r"/b/([^/?]+)", target)[1]
        name = urllib.parse.quote(request.name, safe="")
        status, _, body = self._forward("GET", f"/storage/v1/b/{bucket}/o/{name}", {}, b"")
        return "0" if status == 404 else json.loads(body)["generation"]

    def _forward(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Connection", "close")
            if body or method in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


def _meaning(method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[str, str]:
    """What a request asks for, and of which object."""
    found = _GCS_OBJECT.fullmatch(path)
    if found:
        name = urllib.parse.unquote(found["name"])
        reads = path.startswith("/download") or query.get("alt") == ["media"]
        return {"GET": "read" if reads else "stat", "DELETE": "delete"}.get(method, "write"), name
    if _GCS_UPLOAD.fullmatch(path):
        if method == "GET":
            return "list", query.get("prefix", [""])[0]
        named = re.search(rb'"name": ?("(?:[^"\\]|\\.)*")', body[:4000])
        return "write", query["name"][0] if "name" in query else json.loads(named[1]) if named else ""
    if path.startswith(("/storage/", "/b/", "/batch")):
        return ("delete", "") if path.startswith("/batch") else ("bucket", "")
    name = urllib.parse.unquote(path.lstrip("/").partition("/")[2])
    if name:
        kinds = {"GET": "read", "HEAD": "stat", "DELETE": "delete"}
        return kinds.get(method, "write"), name
    if "delete" in query:
        return "delete", ""
    return ("list", query.get("prefix", [""])[0]) if method == "GET" and "list-type" in query else ("bucket", "")


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """A client that was killed, or a connection that was reset on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer leaves in one piece

    def log_message(self, *_: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        """A client of S3 waits for this answer before it sends the body."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _handle(self) -> None:
        body = self._body()
        request = self.owner.note(self.command, self.path, body)
        self.owner.before(request)
        if self.owner.delay:
            time.sleep(self.owner.delay)
        if self.owner.out:
            self._reset()
            return
        lost = self.owner.lose(request)
        if self.owner.fails():
            status, headers, answer = self.owner.status, [("Content-Type", "text/plain")], b"try again"
        else:
            sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            try:
                status, headers, answer = self.owner.answer(request, self.path, sent, body)
            except (OSError, http.client.HTTPException) as e:
                status, headers, answer = 502, [("Content-Type", "text/plain")], repr(e).encode()
            if lost:
                self._reset()
                return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = dict((n.lower(), v) for n, v in headers).get("content-length", "0")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
