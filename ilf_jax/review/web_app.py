"""The application: which path is answered by what, behind the guard."""

import functools
import sqlite3
from collections.abc import Callable, Collection

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ilf_jax.review.desk import Desk
from ilf_jax.review.guards import Access, Guard, Limits
from ilf_jax.review.web_api import Api
from ilf_jax.review.web_pages import Pages, in_thread


def make_app(desk: Desk, access: Access, hosts: Collection[str], cookie: str, limits: Limits | None = None) -> Guard:
    """The page of one desk.

    Args:
        hosts: see `Guard`.
        cookie: its name; another for each port, for browsers do not tell ports apart.
        limits: see `Guard`.
    """
    pages = Pages(desk, access, cookie)
    api = Api(desk, pages)

    def get(path: str, work: Callable[[Request], Response]) -> Route:
        return Route(path, functools.partial(in_thread, work), methods=["GET"])

    def begin(path: str, work: Callable[[Request], Response]) -> Route:
        """An answer that keeps an item for the reviewer."""
        async def answer(request: Request) -> Response:
            try:
                return await desk.batches.run(functools.partial(work, request))
            except sqlite3.OperationalError as e:
                return await in_thread(functools.partial(pages.full, said=str(e)), request)

        return Route(path, answer, methods=["GET"])

    async def start(request: Request) -> Response:
        del request
        return RedirectResponse("/queue", 303)

    app = Starlette(routes=[
        Route("/", start, methods=["GET"]),
        get("/enter", pages.enter),
        get("/static/{name}", pages.static),
        get("/queue", pages.queue),
        begin("/next", pages.next),
        begin("/items/{number:int}", pages.item),
        get("/items/{number:int}/history", pages.history),
        get("/adjudicate", pages.adjudicate),
        get("/progress", pages.progress),
        get("/export/{kind}", pages.export),
        Route("/items/{number:int}/save", api.save, methods=["POST"]),
        Route("/items/{number:int}/act", api.act, methods=["POST"]),
        Route("/items/{number:int}/decide", api.decide, methods=["POST"]),
        Route("/items/{number:int}/refine", api.refine, methods=["POST"]),
        Route("/items/{number:int}/colors", api.colors, methods=["POST"]),
        Route("/undo", api.undo, methods=["POST"]),
        Route("/reviewer", api.sit_down, methods=["POST"]),
        Route("/run", api.go_on, methods=["POST"]),
        Route("/run/state", api.run_state, methods=["POST"]),
    ])
    return Guard(app, access, desk.store, hosts, cookie, limits)
