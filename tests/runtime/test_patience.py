"""Requests that fail for a passing reason are made again, for as long as the configuration says."""

import time

import pytest

from ilf_jax.errors import TryAgainError
from ilf_jax.runtime import patience, progress


@pytest.fixture
def lines(monkeypatch):
    """What is logged; patience of 0.5 s, and a line at once."""
    said = []
    monkeypatch.setattr(progress, "log", said.append)
    monkeypatch.setattr(patience._state, "seconds", 0.5)
    monkeypatch.setattr(patience._state, "said_at", 0.0)
    monkeypatch.setattr(patience, "_FIRST_LINE", 0.0)
    monkeypatch.setattr(patience, "_FIRST_WAIT", 0.01)
    return said


class AnswerError(Exception):
    """As gcsfs raises it."""

    def __init__(self, code):
        super().__init__(f"said {code}")
        self.code = code


class BotoError(Exception):
    """As botocore raises it; s3fs makes it the cause of an OSError."""

    def __init__(self, code):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": code}}


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(("error", "code", "passing"), [
    (AnswerError(503), 503, True), (AnswerError("429"), 429, True), (AnswerError(408), 408, True),
    (AnswerError(401), 401, False), (AnswerError(412), 412, False),
    (caused(OSError(5, "io"), BotoError(500)), 500, True),
    (caused(OSError(5, "io"), BotoError(400)), 400, False), (PermissionError("no"), 403, False),
    (OSError("Forbidden: x"), 403, False), (FileNotFoundError("x"), 404, False), (FileExistsError("x"), 412, False),
    (ConnectionResetError(), None, True), (TimeoutError(), None, True), (ValueError("x"), None, False),
    (OSError(28, "full"), None, False),
])
def test_which_errors_pass(error, code, passing):
    assert patience.status(error) == code and patience.is_passing(error) == passing


def test_errors_of_the_clients_libraries():
    aiohttp, botocore = pytest.importorskip("aiohttp"), pytest.importorskip("botocore.exceptions")
    for error in (aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError(), botocore.HTTPClientError(error="x"),
                  botocore.EndpointConnectionError(endpoint_url="x"), botocore.ReadTimeoutError(endpoint_url="x"),
                  botocore.ConnectionClosedError(endpoint_url="x")):
        assert patience.is_passing(error), error
    for error in (aiohttp.InvalidURL("x"), botocore.NoCredentialsError()):
        assert not patience.is_passing(error), error


def test_tried_until_it_works(lines):
    answers = [AnswerError(503), ConnectionResetError(), "done"]

    def request():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patience.insist("gs://bucket", request) == "done"
    assert lines == ["waiting for gs://bucket: HTTP 503, for 0.0 s of 0.5 s"]  # not a second one in the same minute


def test_at_the_end_it_is_said_what_failed(lines):
    def request():
        raise AnswerError(503)

    start = time.monotonic()
    with pytest.raises(TryAgainError, match=r"gs://bucket: HTTP 503, for 0\.\d s \(config\.storage\.patience\)"):
        patience.insist("gs://bucket", request)
    assert time.monotonic() - start >= 0.5


def test_what_does_not_pass_is_raised_at_once(lines):
    calls = []

    def request():
        calls.append(1)
        raise AnswerError(403)

    with pytest.raises(AnswerError):
        patience.insist("gs://bucket", request)
    assert calls == [1] and not lines
