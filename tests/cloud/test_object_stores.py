"""The stores that the tests of buckets use: what they are relied on for."""

import concurrent.futures
import contextlib
import urllib.error
import urllib.request

import object_stores
import pytest


@pytest.fixture(scope="module", params=object_stores.SCHEMES)
def store(request):
    with object_stores.started(request.param) as started:
        yield started


def put(store, name, body, **conditions):
    """Status of a plain HTTP request that writes an object."""
    if store.scheme == "gs":
        query = "".join(f"&{key}={value}" for key, value in conditions.items())
        url, method = f"{store.proxy.url}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}{query}", "POST"
        headers = {}
    else:
        url, method = f"{store.proxy.url}/bucket/{name}", "PUT"
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
                                    "SignedHeaders=host, Signature=0", **({"If-None-Match": "*"} if conditions else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code


def test_a_second_conditional_create_is_refused(store):
    assert put(store, "once", b"1", ifGenerationMatch=0) == 200
    assert put(store, "once", b"2", ifGenerationMatch=0) == 412
    assert put(store, "once", b"3") == 200


def test_of_creates_at_once_one_wins(store):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda i: put(store, "race", b"%d" % i, ifGenerationMatch=0), range(16)))
    assert sorted(codes) == [200] + [412] * 15


def test_requests_are_counted_failed_and_reset(store):
    proxy = store.proxy
    with proxy.settings(failing=0.5):
        codes = [put(store, f"object-{i}", b"x") for i in range(40)]
        assert set(codes) == {200, 503} and len(proxy.requests) == 40
        assert {(r.kind, r.name) for r in proxy.requests} == {("write", f"object-{i}") for i in range(40)}
    with proxy.settings(out=True), contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises((ConnectionError, urllib.error.URLError)))
        put(store, "away", b"x")
    assert put(store, "back", b"x") == 200
