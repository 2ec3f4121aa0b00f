"""The reviewing page in a real browser: keys alone, reloads, dead servers, small and dark screens, accessibility."""

import asyncio
import dataclasses
import json
import os
import pathlib
import re
import threading
import time

import pytest
import uvicorn

from ilf_jax.config import Config
from ilf_jax.review.desk import Desk
from ilf_jax.review.entries import Form
from ilf_jax.review.guards import Access
from ilf_jax.review.learner import Colors
from ilf_jax.review.rounds import Round, WaitingRun, of_pairs, of_run
from ilf_jax.review.store import NewItem, Store
from ilf_jax.review.web_app import make_app

HERE = pathlib.Path(__file__).parent
IMAGES = os.environ.get("ILF_WRITE_IMAGES")  # a folder: the pictures of the documentation are written there
DOCUMENT = "I (24F) have been offered a job in another city. My partner wants to stay. We have talked for weeks. " * 6


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
        while not self._server.started:  # until then, the port refuses connections
            assert self._thread.is_alive()
            time.sleep(0.01)

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


def items(count=10):
    return [NewItem(f"d{i}", f"{DOCUMENT} Case {i}.", f"Somebody has a job offer in city {i}; the partner stays.",
                    f"Post {i}") for i in range(count)]


def round_of(folder, count=10):
    return Round("r", folder, items(count), [], folder / "reviews.jsonl")


def saved(page):
    page.wait_for_selector("#saved:text-is('saved')")


def on_item(page, title):
    page.wait_for_selector(f"h1:has-text('{title}')")
    page.wait_for_selector("html[data-ready] #feedback:focus")


def picture(page, name, **more):
    if IMAGES:
        page.screenshot(path=f"{IMAGES}/{name}.png", **more)


def results(folder):
    rows = [json.loads(line) for line in (folder / "reviews.jsonl").read_text().splitlines()]
    return {row["id"]: row for row in rows}


def test_ten_items_by_keyboard_alone(serve, open_page, tmp_path):
    server = serve(tmp_path, [round_of(tmp_path)], form=Form(guidelines="Say **what is missing** first."))
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.keyboard.press("Tab")  # to the content
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Review
    typed = {}
    for number in range(10):
        on_item(page, f"Post {number}")
        if number in (2, 5):
            page.keyboard.press("Alt+s")
        elif number == 7:
            page.keyboard.type("Is this even a summary?")
            page.keyboard.press("Escape")
            page.keyboard.press("f")
        elif number == 3:
            page.keyboard.type("The summary leaves out")
            page.reload()
            on_item(page, "Post 3")
            assert page.input_value("#feedback") == "The summary leaves out"
            page.keyboard.press("Control+End")
            page.keyboard.type(" the partner.")
            page.keyboard.press("Alt+2")
            typed["d3"] = "The summary leaves out the partner."
            page.keyboard.press("Control+Enter")
        else:
            typed[f"d{number}"] = f"Say who decides, number {number}; “why”."
            page.keyboard.type(typed[f"d{number}"])
            page.keyboard.press("Tab")
            page.keyboard.type("who")
            page.keyboard.press("Enter")  # a field of one line submits
        page.wait_for_url(re.compile(r"/progress" if number == 9 else rf"/items/{number + 2}$"))
    page.goto(f"http://{server.host}/items/8")
    page.wait_for_selector("#status:text-is('flagged')")
    found = results(tmp_path)
    assert {i: row["feedback"] for i, row in found.items() if row["status"] == "submitted"} == typed
    assert [found[i]["status"] for i in ("d2", "d5", "d7")] == ["skipped", "skipped", "flagged"]
    assert found["d3"]["class"] == "accuracy" and found["d0"]["important"] == "who"
    assert found["d7"]["feedback"] == "" and server.store.review(8, "ann").entry.feedback == "Is this even a summary?"
    assert all(review.seconds > 0 for review in server.store.reviews())


def test_undo_and_reopen(serve, open_page, tmp_path):
    server = serve(tmp_path, [round_of(tmp_path, 3)])
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.click("text=Review >> nth=0")
    on_item(page, "Post 0")
    page.keyboard.type("Too long.")
    page.keyboard.press("Control+Enter")
    on_item(page, "Post 1")
    page.keyboard.press("Alt+u")
    on_item(page, "Post 0")
    assert page.input_value("#feedback") == "Too long." and results(tmp_path)["d0"]["status"] == "pending"
    page.keyboard.press("Control+End")
    page.keyboard.type(" And dull.")
    page.keyboard.press("Control+Enter")
    on_item(page, "Post 1")
    page.keyboard.press("Alt+p")
    page.wait_for_selector("text=Reopen")
    assert page.is_disabled("#feedback") and page.input_value("#feedback") == "Too long. And dull."
    page.keyboard.press("r")
    on_item(page, "Post 0")
    page.keyboard.press("Control+End")
    page.keyboard.type("!")
    saved(page)
    assert server.store.review(1, "ann").status == "draft"
    assert [row["action"] for row in server.store.history(1)] == ["reopen", "submit", "undo", "submit (undone)"]


def test_marked_parts(serve, open_page, tmp_path):
    draft = "She 😀 moves; he stays."
    items = [NewItem("a", "doc", draft)]
    server = serve(tmp_path, [Round("r", tmp_path, items, [], tmp_path / "reviews.jsonl")])
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/items/1")
    page.focus("#draft")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight"):
        page.keyboard.press(key)
    chosen = page.evaluate("getSelection().toString().trim()")
    page.keyboard.press("m")
    page.keyboard.type("what for?")
    saved(page)
    (span,) = server.store.review(1, "ann").entry.spans
    assert chosen and draft[span.start : span.end] == chosen and span.comment == "what for?"
    assert "😀" in draft[: span.end]
    assert page.text_content("#draft mark") == chosen and page.text_content("#draft") == draft
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/progress")
    assert results(tmp_path)["a"]["feedback"] == f'"{chosen}": what for?'


def test_nothing_is_lost_while_the_server_is_away(serve, open_page, tmp_path):
    server = serve(tmp_path, [round_of(tmp_path, 2)])
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/items/1")
    on_item(page, "Post 0")
    page.keyboard.type("Before it went.")
    saved(page)
    server.stop()
    page.keyboard.type(" While it was away.")
    page.wait_for_selector("#notice:has-text('does not answer')")
    again = serve(tmp_path, [round_of(tmp_path, 2)], port=server.port)
    saved(page)
    assert again.store.review(1, "ann").entry.feedback == "Before it went. While it was away."


def test_two_windows_do_not_write_over_each_other(serve, open_page, tmp_path):
    server = serve(tmp_path, [round_of(tmp_path, 2)])
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/items/1")
    other = page.context.new_page()
    other.goto(f"http://{server.host}/items/1")
    on_item(page, "Post 0")
    page.type("#feedback", "from one")
    saved(page)
    other.type("#feedback", "from two")
    other.wait_for_selector("#notice:has-text('another window has saved')")
    assert server.store.review(1, "ann").entry.feedback == "from one"


def test_comparisons_by_keys(serve, open_page, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"pair": n, "title": f"Pair {n}", "document": DOCUMENT,
                                        "A": f"A woman of 24 has a job offer in city {n}; her partner wants to stay.",
                                        "B": f"A couple argue about city {n}.", "better": ""}) + "\n"
                            for n in (1, 2, 3)))
    server = serve(tmp_path, [of_pairs(path)], form=Form(criteria=("accuracy",)))
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/next")
    for number, key in ((1, "a"), (2, "t"), (3, "b")):
        page.wait_for_selector(f"html[data-ready] h1:has-text('Pair {number}')")
        page.keyboard.press(key)
        if number == 1:
            page.check("input[name='criterion:accuracy'][value='B']")
            picture(page, "reviewing_pair")
        page.keyboard.press("Control+Enter")
    page.wait_for_url("**/progress")
    server.desk.outbox.flush()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["better"] for row in rows] == ["A", "tie", "B"]
    assert [row["criteria"] for row in rows] == [{"accuracy": "B"}, {}, {}]


NASTY = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">‮gnp"


def test_documents_cannot_run_or_turn_the_page_around(serve, open_page, tmp_path):
    items = [NewItem("a", f"{NASTY} [x](javascript:alert(1))", NASTY, NASTY)]
    server = serve(tmp_path, [Round("r", tmp_path, items, [], tmp_path / "reviews.jsonl")])
    page = open_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(server.link(reviewer="%3Cb%3Eann"))
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/items/1")
    assert page.text_content("#draft") == NASTY and page.title() != "owned"
    assert page.locator("main img, main script").count() == 0
    for selector in ("h1 bdi", "#draft", ".document .text"):
        assert page.eval_on_selector(selector, "e => getComputedStyle(e).unicodeBidi").startswith("isolate"), selector
    assert all(url.startswith(f"http://{server.host}/") for url in requests)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 390), ("dark", 390)])
def test_accessible_on_every_screen(scheme, width, serve, open_page, tmp_path):
    form = Form(rating=5, overlap=2, guidelines="# What to say\n\n1. What is **missing**?\n2. What is wrong?")
    pairs = [NewItem("p", DOCUMENT, "First.", "Pair", "Second.", True)]
    server = serve(tmp_path, [round_of(tmp_path), Round("p", tmp_path, pairs, [], tmp_path / "p.jsonl")], form=form)
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 844})
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/items/1")
    page.fill("#feedback", "Say that the partner wants to stay, and for how long they have talked.")
    page.focus("#draft")
    for key in ("ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "m"):
        page.keyboard.press(key)
    page.keyboard.type("whose job?")
    saved(page)
    page.evaluate("scrollTo(0, 0)")
    picture(page, f"reviewing_{scheme}{'_390' if width == 390 else ''}", full_page=width == 390)
    for name in ("ann", "bob"):
        item = server.store.item(2)
        review = server.store.claim(2, name)
        server.store.act(item, name, server.store.review(1, "ann").entry, "submit", base=review.revision, token="t",
                         seconds=60)
    for path in ("/items/1", "/items/2", "/items/11", "/queue", "/progress", "/adjudicate"):
        page.goto(f"http://{server.host}{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        page.evaluate((HERE / "axe/axe.min.js").read_text(encoding="utf-8"))
        found = page.evaluate("axe.run().then(result => result.violations)")
        serious = [(v["id"], [node["html"] for node in v["nodes"]][:3]) for v in found
                   if v["impact"] in ("serious", "critical")]
        assert not serious, (path, serious)


@pytest.mark.usefixtures("quick_compiles")
def test_a_run_goes_on_with_what_was_typed(serve, open_page, tiny_config, tmp_path, monkeypatch):
    import ilf_jax
    from ilf_jax.errors import WaitingError
    from ilf_jax.records import Feedback
    from ilf_jax.runtime.stage_folder import StageFolder

    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of the process that the button starts
    tiny_config.feedback.source = "human"
    folder = tmp_path / "run"
    with pytest.raises(WaitingError):
        ilf_jax.run(tiny_config, folder)
    server = serve(folder / "review", [of_run(folder)], workdir=folder)
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/next")
    typed = {}
    for number, item in enumerate(server.store.items()):
        on_item(page, item.title or item.key)
        if number in (1, 4):
            page.keyboard.press("Alt+s")
        else:
            typed[item.key] = f"Remove word {number}."
            page.keyboard.type(typed[item.key])
            page.keyboard.press("Control+Enter")
    page.wait_for_url("**/progress")
    page.wait_for_selector("h2:has-text('Seconds for an item')")
    picture(page, "reviewing_progress", clip={"x": 0, "y": 0, "width": 1200, "height": 755})  # no paths
    page.click("#continue")
    page.wait_for_selector("#run-said:has-text('The run is complete')", timeout=400_000)
    given = StageFolder(folder / "iteration_001/feedback", {}).read(Feedback)
    assert {i: row.text for i, row in given.items()} == typed


class Scripted:
    """Stands for a loaded model: what the page shows of its answers is tested here, the answers in test_learner."""

    def __init__(self, *texts):
        self.texts = texts

    def refinements(self, item, feedback):
        yield f"{self.texts[0]} ({feedback})"
        yield from self.texts[1:]

    def colors(self, item, feedback):
        tokens = re.findall(r"\s*\S+", item.draft)
        return Colors(tokens, [-1.5, 0.25, 0.1, 0.0, 0.2, 0.0, -0.9, -1.2, 0.1, 0.6, 0.9][: len(tokens)], -0.6)

    def warm_up(self, items):
        pass


def test_the_learner_beside_the_comment(serve, open_page, tmp_path):
    waits = dataclasses.replace(round_of(tmp_path, 2), run=WaitingRun(tmp_path, 1, Config()))
    texts = ["A woman of 24 has a job offer in another city; her partner wants to stay.",
             "I have a job offer elsewhere and my partner of three years wants to stay: should I go?"]
    learner = Scripted("<b>one</b>", "another")
    server = serve(tmp_path, [waits], load_learner=lambda run: learner)
    page = open_page()
    page.goto(server.link())
    page.wait_for_url("**/queue")
    page.goto(f"http://{server.host}/items/1")
    on_item(page, "Post 0")
    page.keyboard.type("Say who.")
    page.click("#refine")
    page.wait_for_selector("#refinements li >> nth=1")
    assert page.locator("#refinements bdi").all_text_contents() == ["<b>one</b> (Say who.)", "another"]
    learner.texts = texts
    page.click("#refine:enabled")
    page.wait_for_selector(f"#refinements li:has-text('{texts[1]}')")
    assert page.locator("#refinements li").count() == 2
    page.click("#color")
    page.wait_for_selector("#effect:has-text('less likely by 0.60 nats')")
    tokens = page.locator("#draft .token")
    assert "".join(tokens.all_text_contents()) == items()[0].draft
    colors = tokens.evaluate_all("tokens => tokens.map(token => getComputedStyle(token).backgroundColor)")
    assert colors[:2] == ["rgba(213, 94, 0, 0.75)", "rgba(0, 114, 178, 0.125)"]
    picture(page, "reviewing_learner")
    page.click("text=Take over >> nth=1")
    saved(page)
    entry = server.store.review(1, "ann").entry
    assert (entry.refinement, entry.taken_over, entry.refinement_by) == (texts[1], texts[1], "refiner")
    page.fill("#refinement", f"{texts[1]} Or not?")
    saved(page)
    entry = server.store.review(1, "ann").entry
    assert (entry.taken_over, entry.refinement_by) == (texts[1], "refiner, edited")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")  # out of the text fields it submits, too
    page.wait_for_selector("h1:has-text('Post 1')")
    assert server.store.review(1, "ann").status == "submitted"
