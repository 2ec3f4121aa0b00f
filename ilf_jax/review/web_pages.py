"""The pages, rendered here: queue, item, adjudication, progress. A GET changes nothing that anybody wrote."""

import functools
import importlib.resources
import json
from typing import Any

import jinja2
import markdown_it
import markupsafe
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from ilf_jax.errors import InputError
from ilf_jax.review import entries, exchange
from ilf_jax.review.database import check_name
from ilf_jax.review.desk import Desk
from ilf_jax.review.guards import CSRF, SESSION, Access
from ilf_jax.review.store import ConflictError, Item, RefusedError

_FILES = importlib.resources.files("ilf_jax.review").joinpath("pages")
_STATIC = {"review.js": "text/javascript", "learner.js": "text/javascript", "review.css": "text/css"}
_SHOWN = 500  # items of a page of the queue
ANONYMOUS = "reviewer"


@functools.lru_cache(1)
def markdown(text: str) -> markupsafe.Markup:
    """Markdown as HTML: HTML in it is shown as text, and links lead to http, https and mailto only."""
    renderer = markdown_it.MarkdownIt("js-default", {"html": False, "linkify": False}).disable("image")
    return markupsafe.Markup(renderer.render(text))


class Pages:
    """Answers to GET."""

    def __init__(self, desk: Desk, access: Access, cookie: str) -> None:
        self._desk, self._access, self._cookie = desk, access, cookie
        self._static = {name: _FILES.joinpath(name).read_bytes() for name in _STATIC}
        self._templates = jinja2.Environment(
            loader=jinja2.FunctionLoader(lambda name: _FILES.joinpath(name).read_text(encoding="utf-8")),
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)

    def _render(self, request: Request, name: str, code: int = 200, **values: Any) -> HTMLResponse:
        reviewer = self.reviewer(request)
        queue = values.pop("of_reviewer", None) or self._desk.queue(reviewer)
        text = self._templates.get_template(name).render(
            reviewer=reviewer, csrf=request.scope[CSRF], counts=self._desk.counts(queue),
            learner=self._desk.has_learner, statuses=entries.STATUSES, **values)
        return HTMLResponse(text, code)

    def reviewer(self, request: Request) -> str:
        """Who sits at the browser."""
        return self._desk.store.reviewer_of_session(request.scope[SESSION]) or ANONYMOUS

    def enter(self, request: Request) -> Response:
        """/enter?token=...&reviewer=...: a cookie for the token. A page follows rather than a redirect: after a click
        on another site a browser would leave a SameSite cookie out of the redirected request.
        """
        try:
            reviewer = check_name(request.query_params.get("reviewer", ANONYMOUS))
        except ValueError as e:
            return PlainTextResponse(f"{e}\n", 400)
        session = self._access.enter(request.query_params.get("token", ""), reviewer)
        if session is None:
            return PlainTextResponse("this link is not valid, or was used before; `ilf-jax review` has printed the "
                                     "next one\n", 403)
        answer = HTMLResponse('<!doctype html><html lang="en"><title>ILF reviewing</title><a href="/">Go on</a></html>',
                              headers={"refresh": "0; url=/"})
        answer.set_cookie(self._cookie, session, httponly=True, samesite="strict", path="/")
        return answer

    def static(self, request: Request) -> Response:
        """Our script and style, held in memory: no path of a request reaches the disk."""
        name = request.path_params["name"]
        if name not in self._static:
            return PlainTextResponse("there is no such file\n", 404)
        return Response(self._static[name], media_type=_STATIC[name])

    def queue(self, request: Request) -> Response:
        """The items of a reviewer, of one status or all."""
        status = request.query_params.get("status", "")
        page = request.query_params.get("page", "1")
        number = int(page) if page.isdecimal() and len(page) < 7 else 1
        queue = self._desk.queue(self.reviewer(request))
        counted = {name: sum(s == name for _, s in queue) for name in entries.STATUSES}
        chosen = [(number, s) for number, s in queue if status in ("", s)]
        pages = max(1, -(-len(chosen) // _SHOWN))
        start = (min(max(number, 1), pages) - 1) * _SHOWN
        by_number = {item.id: item for item in self._desk.items()}
        return self._render(request, "queue.html", status=status, counted=counted, total=len(queue), of_reviewer=queue,
                            queue=[(by_number[number], s) for number, s in chosen[start : start + _SHOWN]],
                            page=start // _SHOWN + 1, pages=pages)

    def next(self, request: Request) -> Response:
        """Leads to the next item that waits."""
        after = request.query_params.get("after", "0")
        found = self._desk.store.claim_next(self.reviewer(request), int(after) if after.isdecimal() else 0,
                                            self._desk.by_gain)
        return RedirectResponse(f"/items/{found}" if found is not None else "/progress", 303)

    def item(self, request: Request) -> Response:
        """An item: the document beside the draft, and what is said of it."""
        item = self._desk.store.item(request.path_params["number"])
        if item is None:
            return self._render(request, "message.html", 404, title="No such item", said="There is no such item.")
        reviewer = self.reviewer(request)
        try:
            review = self._desk.store.claim(item.id, reviewer)
        except (ConflictError, RefusedError) as e:
            return self._render(request, "message.html", 409, title="Not yours", said=f"{e}.".capitalize())
        queue = self._desk.queue(reviewer)
        numbers = [number for number, _ in queue]
        at = numbers.index(item.id) if item.id in numbers else 0
        state = {"item": item.id, "draft": item.draft, "is_pair": item.is_pair, "entry": review.entry.to_json(),
                 "revision": review.revision, "token": review.token, "status": review.status, "reviewer": reviewer,
                 "previous": numbers[at - 1] if at > 0 else None,
                 "next": numbers[at + 1] if at + 1 < len(numbers) else None}
        form = self._desk.store.form
        return self._render(
            request, "pair.html" if item.is_pair else "item.html", item=item, review=review, form=form, state=state,
            number=at + 1, of=len(numbers), of_reviewer=queue,
            guidelines=markdown(form.guidelines) if form.guidelines else "",
            history=self._desk.store.history(review.id), clean=review.status in (entries.PENDING, entries.DRAFT))

    def full(self, request: Request, said: str) -> Response:
        """In the place of an item that cannot be kept for the reviewer."""
        return self._render(request, "message.html", 507, title="No room",
                            said=f"The item cannot be opened: {said}. Make room on the disk, and reload the page.")

    def adjudicate(self, request: Request) -> Response:
        """Items with several submitted reviews, side by side."""
        decisions = self._desk.store.decisions()
        by_item = {number: [r for r in reviews if r.status == entries.SUBMITTED]
                   for number, reviews in self._desk.reviews_by_item().items()}
        several = [item for item in self._desk.items() if len(by_item.get(item.id, ())) > 1]
        rows: list[tuple[Item, list[Any]]] = []
        for short in several[:_SHOWN]:
            item, submitted = self._desk.store.item(short.id), by_item[short.id]
            if item is not None:
                rows.append((item, [(r, r.entry.better if item.is_pair else entries.compose(r.entry, item.draft))
                                    for r in submitted]))
        return self._render(request, "adjudicate.html", rows=rows, decisions=decisions, total=len(several))

    def progress(self, request: Request) -> Response:
        """How far everybody is, how they agree, and the button that continues the run."""
        again = self._desk.again
        try:
            needed = self._desk.still_needed()
        except InputError as e:
            return self._render(request, "message.html", 500, title="The run's files", said=f"{e}.")
        return self._render(request, "progress.html", **self._desk.figures(), people=self._desk.by_reviewer(),
                            again=again.state() if again is not None else None, needed=needed,
                            rounds=self._desk.rounds)

    def export(self, request: Request) -> Response:
        """All reviews as a file."""
        rows = exchange.review_rows(self._desk.store)
        kind = request.path_params["kind"]
        if kind not in ("jsonl", "csv"):
            return PlainTextResponse("there are /export/jsonl and /export/csv\n", 404)
        text, media = (exchange.to_csv(rows), "text/csv") if kind == "csv" else (exchange.to_json_lines(rows),
                                                                                  "application/x-ndjson")
        return Response(text, media_type=media,
                        headers={"content-disposition": f'attachment; filename="reviews.{kind}"'})

    def history(self, request: Request) -> Response:
        """What happened to this reviewer's review of an item, as JSON."""
        review = self._desk.store.review(request.path_params["number"], self.reviewer(request))
        rows = self._desk.store.history(review.id) if review is not None else []
        return Response(json.dumps(rows, ensure_ascii=False), media_type="application/json")


async def in_thread(work: Any, request: Request) -> Response:
    """Runs a handler that reads the store in another thread, so that others are served meanwhile."""
    return await run_in_threadpool(work, request)
