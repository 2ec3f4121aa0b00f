"""A reviewing server of our own process, and Debian's Chromium in front of it."""

import asyncio
import shutil
import threading

import pytest
import uvicorn

from ilf_jax.review.desk import Desk
from ilf_jax.review.entries import Form
from ilf_jax.review.guards import Access
from ilf_jax.review.store import Store
from ilf_jax.review.web_app import make_app

CHROMIUM = shutil.which("chromium")


class Server:
    """The page on a port of this machine, until `stop`. The folder keeps what was written."""

    def __init__(self, folder, rounds, port=0, **more):
        form = more.pop("form", Form())
        self.store = Store(folder / "review.sqlite", form)
        self.desk = Desk(self.store, rounds, **more)
        self.access = Access(self.store)
        config = uvicorn.Config(None, port=port, log_level="warning", lifespan="off", ws="none")
        listening = config.bind_socket()
        self.port = listening.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        config.app = make_app(self.desk, self.access, {self.host}, f"ilf_review_{self.port}")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[listening])))
        self._thread.start()

    def link(self, reviewer="ann"):
        return f"http://{self.host}/enter?token={self.access.token}&reviewer={reviewer}"

    def stop(self):
        self._server.should_exit = True
        self._thread.join()
        self.desk.close()
        self.store.close()


@pytest.fixture
def serve():
    """Starts a server; all are stopped in the end."""
    servers = []

    def start(*arguments, **more):
        servers.append(Server(*arguments, **more))
        return servers[-1]

    yield start
    for server in servers:
        if server._thread.is_alive():
            server.stop()


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium; Playwright's own browsers are never downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A page in a browser of its own, which fails the test on an error of a script or a breach of the policy."""
    contexts, problems = [], []

    def open_one(**more):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **more})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not problems
