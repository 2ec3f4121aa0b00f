"""Writes of small objects that take effect only if nobody else was there first.

GCS compares generations (ifGenerationMatch, https://cloud.google.com/storage/docs/request-preconditions), S3 ETags
(If-None-Match and If-Match, https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html). Requests
that fail for a passing reason are made again. Such a request may have taken effect although its answer was lost; so
contents must be unique, and a write that finds its own content there has succeeded.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from ilf_jax.errors import InputError
from ilf_jax.runtime import bucket_clients, patience
from ilf_jax.runtime.bucket import bucket

T = TypeVar("T")

_REFUSED = 412
_ANOTHER_UNDER_WAY = 409
"""S3: a conditional request on the same object was under way; this one is to be made again."""
_NOT_OFFERED = 501


class Found(NamedTuple):
    """An object: its content, and the version (generation or ETag) that a condition on it names."""

    content: bytes
    version: str


def read(uri: str) -> Found | None:
    """The object, None if there is none.

    Raises:
        InputError: the bucket is missing or may not be read.
        TryAgainError: it does not answer.
    """
    where, scheme, bucket_name = _object(uri)

    def request() -> Found | None:
        with contextlib.suppress(FileNotFoundError):
            return where.read()
        return None

    return _insist(request, uri, scheme, bucket_name)


def create_if_absent(uri: str, content: bytes) -> str | None:
    """The new object's version; None if there is one already. Raises as `read`."""
    return _write(uri, content, None)


def replace_if_unchanged(uri: str, content: bytes, version: str) -> str | None:
    """The new version; None if the object no longer has the given one. Raises as `read`."""
    return _write(uri, content, version)


def delete_if_unchanged(uri: str, version: str) -> None:
    """Deletes the object if it has this version. Tries once only. Raises what the client of the store raises."""
    _object(uri)[0].delete(version)


def _write(uri: str, content: bytes, version: str | None) -> str | None:
    where, scheme, bucket_name = _object(uri)
    try:
        # Where it is to be replaced, not found means refused; else that there is no bucket.
        return _insist(lambda: where.write(content, version), uri, scheme, bucket_name if version is None else "")
    except (FileExistsError, FileNotFoundError):
        found = read(uri)
        return found.version if found is not None and found.content == content else None


def _insist(request: Callable[[], T], uri: str, scheme: str, bucket_name: str) -> T:
    def once() -> T:
        try:
            return request()
        except Exception as e:
            code = patience.status(e)
            if code == _REFUSED:
                raise FileExistsError(uri) from e
            if code == _ANOTHER_UNDER_WAY:
                raise ConnectionAbortedError("another conditional request is under way") from None
            if code == _NOT_OFFERED:
                raise InputError(f"{uri}: this store offers no conditional writes (HTTP 501), which keep two runs out "
                                 "of one folder; take a store that does, or a disk") from None
            raise

    with bucket_clients.explained(uri, scheme, bucket_name):
        return patience.insist(uri, once)


class _Object(Protocol):
    def read(self) -> Found: ...

    def write(self, content: bytes, version: str | None) -> str: ...

    def delete(self, version: str) -> None: ...


def _object(uri: str) -> tuple[_Object, str, str]:
    """The object that speaks to the store's client, its scheme, its bucket."""
    parts = bucket_clients.split(uri)
    if parts is None:
        raise ValueError(f"{uri} is in no bucket")
    scheme, name, key = parts
    client = bucket(scheme, name).client
    return (_InGcs(client, name, key) if scheme == "gs" else _InS3(client, name, key)), scheme, name


class _InGcs:
    """Versions are generations. gcsfs has no method for conditions on them, but a public one for any request."""

    def __init__(self, client: Any, bucket_name: str, key: str) -> None:
        self._client, self._bucket, self._key = client, bucket_name, key

    def _call(self, method: str, **more: Any) -> Any:
        return self._client.call(method, "b/{}/o/{}", self._bucket, self._key, **more)

    def read(self) -> Found:
        version = self._call("GET", json_out=True)["generation"]
        return Found(self._call("GET", alt="media", generation=version)[1], version)

    def write(self, content: bytes, version: str | None) -> str:
        path = f"{self._client.base.removesuffix('/storage/v1/')}/upload/storage/v1/b/{self._bucket}/o"
        written = self._client.call("POST", path, uploadType="media", name=self._key, data=content, json_out=True,
                                    ifGenerationMatch=version or "0")
        return str(written["generation"])

    def delete(self, version: str) -> None:
        self._call("DELETE", ifGenerationMatch=version)


class _InS3:
    """Versions are ETags, which follow from the content where it is not encrypted."""

    def __init__(self, client: Any, bucket_name: str, key: str) -> None:
        self._client, self._where = client, {"Bucket": bucket_name, "Key": key}

    def read(self) -> Found:
        # The version first: a write on the condition of one that is out of date is refused.
        version = self._client.call_s3("head_object", **self._where)["ETag"]
        return Found(self._client.cat_file("{Bucket}/{Key}".format(**self._where), max_concurrency=1), version)

    def write(self, content: bytes, version: str | None) -> str:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        return str(self._client.call_s3("put_object", Body=content, **self._where, **condition)["ETag"])

    def delete(self, version: str) -> None:
        self._client.call_s3("delete_object", IfMatch=version, **self._where)
