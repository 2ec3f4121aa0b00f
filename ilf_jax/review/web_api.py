"""What the script sends: saves, actions, decisions, and requests to the learner. JSON in, JSON out; see `Guard`."""

import functools
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ilf_jax.errors import InputError
from ilf_jax.review import entries
from ilf_jax.review.database import check_name
from ilf_jax.review.desk import Desk
from ilf_jax.review.guards import SESSION
from ilf_jax.review.store import ACTIONS, ConflictError, Item, RefusedError, Review
from ilf_jax.review.web_pages import Pages

_LONGEST_TOKEN = 64


class BadRequestError(Exception):
    """The body is not what the script would send."""


class Api:
    """Answers to POST."""

    def __init__(self, desk: Desk, pages: Pages) -> None:
        self._desk, self._pages = desk, pages

    async def save(self, request: Request) -> Response:
        """What has been written so far: {entry, base, token, seconds}."""
        return await self._answer(request, self._save, changes=True)

    def _save(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        item, arguments = self._item(request), _saving(body)
        entry = self._entry(body, item)
        return _state(self._desk.store.save(item, self._pages.reviewer(request), entry, **arguments))

    async def act(self, request: Request) -> Response:
        """A save with an action: submit, skip, flag or reopen. The answer says which item is next."""
        return await self._answer(request, self._act, changes=True)

    def _act(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        item, arguments = self._item(request), _saving(body)
        action = body.get("action")
        if action not in ACTIONS:
            raise BadRequestError(f"action is one of {', '.join(ACTIONS)}")
        reviewer = self._pages.reviewer(request)
        review = self._desk.store.act(item, reviewer, self._entry(body, item), action, **arguments)
        self._desk.batches.note(item.id)
        return _state(review)

    async def undo(self, request: Request) -> Response:
        """Takes this reviewer's last action back. The answer names its item."""
        return await self._answer(request, self._undo, changes=True)

    def _undo(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        del body
        item = self._desk.store.undo(self._pages.reviewer(request))
        if item is None:
            raise RefusedError("there is nothing to undo")
        self._desk.batches.note(item)
        return {"item": item}

    async def decide(self, request: Request) -> Response:
        """Which of several reviews of an item counts: {review}."""
        return await self._answer(request, self._decide, changes=True)

    def _decide(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        item = self._item(request)
        self._desk.store.decide(item.id, _whole(body, "review"), self._pages.reviewer(request))
        self._desk.batches.note(item.id)
        return {}

    async def sit_down(self, request: Request) -> Response:
        """Another reviewer: {name}."""
        return await self._answer(request, self._sit_down)

    def _sit_down(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            name = check_name(str(body.get("name", "")))
        except ValueError as e:
            raise BadRequestError(str(e)) from e
        self._desk.store.set_reviewer(request.scope[SESSION], name)
        return {"reviewer": name}

    async def go_on(self, request: Request) -> Response:
        """Continues the run."""
        return await self._answer(request, self._go_on)

    def _go_on(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        del request, body
        if self._desk.again is None:
            raise RefusedError("there is no run to continue")
        self._desk.outbox.flush()
        self._desk.again.start()
        return {**self._desk.again.state()}

    async def run_state(self, request: Request) -> Response:
        """How the run is that was continued; once it waits again, its next drafts are opened."""
        return await self._answer(request, self._run_state)

    def _run_state(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        del request, body
        state = self._desk.again.state() if self._desk.again is not None else {}
        if state.get("code") == 4:
            self._desk.next_round()
        return {**state}

    async def colors(self, request: Request) -> Response:
        """What the feedback written so far would make more and less likely in the draft."""
        return await self._answer(request, self._colors)

    def _colors(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        item = self._item(request)
        learner = self._desk.learner_of(item)
        try:
            found = learner.colors(item, entries.compose(self._entry(body, item), item.draft))
        except InputError as e:  # the prompt does not fit
            raise RefusedError(str(e)) from e
        return {"tokens": found.tokens, "values": found.values, "mean": found.mean}

    async def refine(self, request: Request) -> Response:
        """Refinements for the feedback written so far, a line of JSON each, as they come."""

        def work(request: Request, body: Mapping[str, Any]) -> Iterator[str]:
            item = self._item(request)
            learner = self._desk.learner_of(item)
            return learner.refinements(item, entries.compose(self._entry(body, item), item.draft))

        def lines(texts: Iterator[str]) -> Iterator[str]:
            try:
                for text in texts:
                    yield json.dumps({"text": text}, ensure_ascii=False) + "\n"
            except InputError as e:
                yield json.dumps({"error": str(e)[:1000]}, ensure_ascii=False) + "\n"

        found = await self._attempt(request, work)
        if isinstance(found, Response):
            return found
        return StreamingResponse(lines(found), media_type="application/x-ndjson")

    def _item(self, request: Request) -> Item:
        item = self._desk.store.item(request.path_params["number"])
        if item is None:
            raise RefusedError("there is no such item")
        return item

    def _entry(self, body: Mapping[str, Any], item: Item) -> entries.Entry:
        try:
            return entries.read(body.get("entry"), self._desk.store.form, item.draft)
        except ValueError as e:
            raise BadRequestError(str(e)) from e

    async def _answer(self, request: Request, work: Callable[[Request, Mapping[str, Any]], dict[str, Any]],
                      changes: bool = False) -> Response:
        found = await self._attempt(request, work, changes)
        return found if isinstance(found, Response) else JSONResponse(found)

    async def _attempt(self, request: Request, work: Callable[[Request, Mapping[str, Any]], Any],
                       changes: bool = False) -> Any:
        """What `work` returns, or the answer that says why it failed. A full disk leaves the page up.

        Args:
            changes: it changes reviews, and is short: it becomes a part of the next transaction.
        """
        try:
            body = json.loads(await request.body() or b"{}")
            if not isinstance(body, dict):
                raise BadRequestError("the body is a JSON object")
            if changes:
                return await self._desk.batches.run(functools.partial(work, request, body))
            return await run_in_threadpool(work, request, body)
        except (BadRequestError, ValueError, RecursionError) as e:
            return _problem(400, str(e))
        except ConflictError as e:
            return _problem(409, str(e))
        except RefusedError as e:
            return _problem(422, str(e))
        except InputError as e:  # a file of results cannot be written; the store has it
            return _problem(507, f"saved here, but not yet for the run: {e}")
        except sqlite3.OperationalError as e:
            return _problem(507, f"cannot be saved: {e}. Make room on the disk; the page goes on by itself")


def _saving(body: Mapping[str, Any]) -> dict[str, Any]:
    token, seconds = body.get("token"), body.get("seconds", 0)
    if not isinstance(token, str) or not 0 < len(token) <= _LONGEST_TOKEN:
        raise BadRequestError(f"token is a text of at most {_LONGEST_TOKEN} characters")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
        raise BadRequestError("seconds is a number from 0")
    return {"base": _whole(body, "base"), "token": token, "seconds": float(seconds)}


def _whole(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise BadRequestError(f"{name} is a whole number from 0")
    return value


def _state(review: Review) -> dict[str, Any]:
    return {"revision": review.revision, "status": review.status}


def _problem(code: int, said: str) -> Response:
    return JSONResponse({"error": said[:1000]}, code)
