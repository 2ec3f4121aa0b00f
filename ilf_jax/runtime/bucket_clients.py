"""Clients of object stores: gcsfs for gs://, s3fs for s3://. What they raise becomes one line with the cure."""

import contextlib
import importlib
import os
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.runtime import patience

PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
"""Scheme -> package of its client, and the extra of ours that installs it."""
_SAME = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}
_TO_CONNECT = 3.0
"""Seconds."""
_TO_READ = 60.0
_MAKE = {"gs": "gcloud storage buckets create gs://{}", "s3": "aws s3 mb s3://{}"}
_SIGN_IN = {"gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"}
_ALLOW = {"gs": "the role roles/storage.objectUser on the bucket",
          "s3": "s3:ListBucket on the bucket; s3:GetObject, s3:PutObject and s3:DeleteObject on its objects"}
_NAMES = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)")


def split(text: str) -> tuple[str, str, str] | None:
    """(Scheme, bucket, key) of a URI such as gs://BUCKET/KEY; None of a path on a disk.

    Raises:
        InputError: another scheme, or no bucket.
    """
    match = _URI.match(text)
    if match is None or (len(match[2]) < 2 and match[1].lower() not in {*PACKAGES, *_SAME}):
        return None
    scheme, rest = match[1], text[match.end():]
    allowed = "allowed are gs://BUCKET/FOLDER, s3://BUCKET/FOLDER and paths on a disk"
    if scheme not in PACKAGES:
        ours = _SAME.get(scheme.lower(), scheme.lower())
        hint = f"; write {ours}://{rest}" if ours in PACKAGES else ""
        raise InputError(f"{text}: {scheme}:// is not supported{hint}; {allowed}")
    if len(match[2]) != 2:
        raise InputError(f"{text}: two slashes follow {scheme}:, as in {scheme}://{rest}")
    name, _, key = rest.partition("/")
    if not re.fullmatch(_NAMES, name):
        raise InputError(f"{text}: {name!r} is no name of a bucket; {allowed}")
    return scheme, name, "/".join(part for part in key.split("/") if part)


def connect(scheme: str) -> Any:
    """An fsspec file system that tries each request once and remembers no listings.

    Raises:
        InputError: the package is not installed, the host cannot be reached, or there are no credentials.
    """
    package, extra = PACKAGES[scheme]
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks about each bucket by gRPC first
    try:
        importlib.import_module(package)
    except ImportError as e:
        raise InputError(f"{scheme}:// needs the package {package} ({e}); run: pip install {package}, or "
                         f"pip install 'ilf-jax[{extra}]'") from e
    with explained(f"{scheme}://", scheme):
        return _gcs() if scheme == "gs" else _s3()


def _gcs() -> Any:
    import aiohttp
    from gcsfs.core import GCSFileSystem

    class OneTry(GCSFileSystem):
        """Leaves it to `patience` to try again: gcsfs would, six times and without a word."""

        _request = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)

    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator:
        _check_host(emulator if "://" in emulator else f"http://{emulator}", "gs", "STORAGE_EMULATOR_HOST")
    else:
        _check_host("https://storage.googleapis.com", "gs", "HTTPS_PROXY")
    return OneTry(
        token="anon" if emulator else None, skip_instance_cache=True, use_listings_cache=False,
        requests_timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_TO_READ))


def _s3() -> Any:
    from s3fs import S3FileSystem

    class OneTry(S3FileSystem):
        """See `_gcs`."""

        retries = 1

    fs = OneTry(skip_instance_cache=True, use_listings_cache=False,
                config_kwargs={"connect_timeout": 10.0, "read_timeout": _TO_READ, "retries": {"total_max_attempts": 1},
                               "max_pool_connections": 32})
    fs.connect()
    _check_host(fs.s3.meta.endpoint_url, "s3", "AWS_ENDPOINT_URL or the region, AWS_DEFAULT_REGION")
    return fs


def _check_host(url: str, scheme: str, setting: str) -> None:
    """Raises InputError unless something listens there: the clients would try for minutes, a name server, too."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")):
        return  # which reaches what we cannot
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    outcome: list[str] = []

    def ask() -> None:
        try:
            socket.create_connection((host, port), _TO_CONNECT).close()
            outcome.append("")
        except OSError as e:
            outcome.append(e.strerror or str(e))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_TO_CONNECT + 0.5)
    problem = outcome[0] if outcome else f"no answer within {_TO_CONNECT:g} s"
    if problem:
        raise InputError(f"{scheme}://: {host}:{port} cannot be reached ({problem}); check the network, or {setting}")


@contextlib.contextmanager
def explained(uri: str, scheme: str, bucket: str = "") -> Iterator[None]:
    """Turns what a client raises into an InputError that says what to do.

    FileNotFoundError passes if no bucket is named, and so do FileExistsError and what is no client's.
    """
    try:
        yield
    except (InputError, TryAgainError):
        raise
    except Exception as e:
        code = patience.status(e)
        if isinstance(e, FileExistsError) or (code == 404 and not bucket):
            raise
        if code == 404:
            cure = f"make it ({_MAKE[scheme].format(bucket)}), or correct the name"
            raise InputError(f"{uri}: there is no bucket {bucket}; {cure}") from e
        if code == 401 or type(e).__name__ in ("NoCredentialsError", "DefaultCredentialsError", "RefreshError",
                                               "PartialCredentialsError", "ProfileNotFound"):
            raise InputError(f"{uri}: the credentials are missing or refused ({patience.in_words(e)}); "
                             f"{_SIGN_IN[scheme]}") from e
        if code == 403:
            raise InputError(f"{uri}: permission denied ({patience.in_words(e)}); this account needs {_ALLOW[scheme]}, "
                             f"or {_SIGN_IN[scheme]}") from e
        if patience.is_passing(e) or code is not None:
            raise InputError(f"{uri}: the request failed ({patience.in_words(e)})") from e
        raise
