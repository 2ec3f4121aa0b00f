"""Object stores on this machine, each a real server in a process of its own behind a `storage_proxy.Proxy`."""

import contextlib
import functools
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import storage_proxy

BUCKET = "bucket"
SCHEMES = ("gs", "s3")
_COMMANDS = {
    "gs": ["gcp_storage_emulator", "start", "--host=127.0.0.1", "--quiet", "--in-memory", f"--default-bucket={BUCKET}"],
    "s3": ["moto.server", "-H127.0.0.1"],
}


class Store:
    """A running store: `proxy`, and `uri` of its bucket."""

    def __init__(self, scheme: str, proxy: storage_proxy.Proxy, direct: str) -> None:
        self.scheme, self.proxy, self.direct, self.uri = scheme, proxy, direct, f"{scheme}://{BUCKET}"

    def environment(self, url: str = "") -> dict[str, str]:
        """Variables with which clients find the store through its proxy, or at another address."""
        url = url or self.proxy.url
        here = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        if self.scheme == "gs":
            return {**here, "STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        return {**here, "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

    def objects(self, folder: str) -> dict[str, bytes]:
        """What is in a folder of the bucket, by path; asked past the proxy."""
        return {name: self._client.cat_file(f"{BUCKET}/{folder}/{name}") for name in self.names(folder)}

    def names(self, folder: str) -> list[str]:
        """The paths of what is in a folder of the bucket."""
        start = f"{BUCKET}/{folder}/"
        return [path.removeprefix(start) for path in self._client.find(start)]

    @functools.cached_property
    def _client(self) -> Any:
        import gcsfs.core  # by fsspec one gets a client that asks about buckets by gRPC
        import s3fs

        here = {"skip_instance_cache": True, "use_listings_cache": False, "endpoint_url": self.direct}
        return (gcsfs.core.GCSFileSystem(token="anon", **here) if self.scheme == "gs" else
                s3fs.S3FileSystem(key="test", secret="test", **here))


@contextlib.contextmanager
def started(scheme: str, seed: int = 0) -> Iterator[Store]:
    """A store with an empty bucket, on free ports, ended on exit.

    Args:
        scheme: gs or s3.
        seed: of the requests that the proxy fails.
    """
    port = _free_port()
    server = subprocess.Popen([sys.executable, "-m", *_COMMANDS[scheme], *_port(scheme, port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    direct = f"http://127.0.0.1:{port}"
    try:
        _wait(server, direct)
        if scheme == "s3":
            urllib.request.urlopen(urllib.request.Request(f"{direct}/{BUCKET}", method="PUT")).close()
        # moto keeps If-None-Match and If-Match itself.
        with storage_proxy.Proxy(("127.0.0.1", port), conditions=scheme == "gs", seed=seed) as proxy:
            yield Store(scheme, proxy, direct)
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def used_here(store: Store) -> Iterator[Store]:
    """Inside, this process uses the store."""
    import pytest

    from ilf_jax.runtime import bucket

    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment().items():
            patch.setenv(name, value)
        bucket.bucket.cache_clear()  # what it keeps is connected elsewhere
        yield store
        bucket.bucket.cache_clear()


def _port(scheme: str, port: int) -> list[str]:
    return [f"--port={port}"] if scheme == "gs" else [f"-p{port}"]


def _wait(server: subprocess.Popen, url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError as e:
            assert server.poll() is None and time.monotonic() < end, f"{server.args}: {e}"
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
