"""An attack for each guard of the reviewing page; each is also tried with its guard away, where it must succeed."""

import asyncio
import json
import re
import socket
import sqlite3

import pytest
from conftest import import_program
from starlette.testclient import TestClient

from ilf_jax.errors import InputError
from ilf_jax.review import guards, web_pages
from ilf_jax.review.desk import Desk
from ilf_jax.review.entries import Form
from ilf_jax.review.guards import Access, Limits, RateLimit
from ilf_jax.review.rounds import Round
from ilf_jax.review.store import NewItem, Store
from ilf_jax.review.web_app import make_app

pytestmark = pytest.mark.fast
HOST, COOKIE = "127.0.0.1:8765", "ilf_review_8765"
NASTY = '</script><script>alert(1)</script><img src=x onerror=alert(2)> ‮ gnp.exe " \' {{ 7*7 }}'


class Page:
    """The application with three items, or of another desk, and a browser in front of it."""

    def __init__(self, folder, desk=None, **form):
        self.results = folder / "reviews.jsonl"
        if desk is None:
            items = [NewItem("a", "document", "draft"), NewItem("b", NASTY, NASTY, NASTY), NewItem("c", "doc", "d")]
            desk = Desk(Store(folder / "review.sqlite", Form(**form)), [Round("r", folder, items, [], self.results)])
        self.store, self.desk = desk.store, desk
        self.shown = []
        self.access = Access(self.store, renewed=self.shown.append)
        self.limits = Limits(RateLimit(0, 1000), RateLimit(0, 20))
        self.app = make_app(self.desk, self.access, {HOST}, COOKIE, self.limits)

    def browser(self, **more):
        return TestClient(self.app, base_url=f"http://{HOST}", follow_redirects=False, **more)

    def entered(self, name="ann"):
        browser = self.browser()
        assert browser.get(f"/enter?token={self.access.token}&reviewer={name}").status_code == 200
        browser.headers["x-csrf-token"] = re.search(r'name="csrf" content="(\w+)"', browser.get("/queue").text)[1]
        return browser

    def close(self):
        self.desk.close()
        self.store.close()


@pytest.fixture
def page(tmp_path):
    page = Page(tmp_path)
    yield page
    page.close()


def save(browser, item=1, feedback="x", base=0, token="t", path="save", **more):
    headers = {"content-type": "application/json"}
    return browser.post(f"/items/{item}/{path}", headers=headers, content=json.dumps(
        {"entry": {"feedback": feedback}, "base": base, "token": token, **more}))


def without(monkeypatch, name):
    """Takes one check of the guard away: `name` is what the guard compares or counts by."""
    patches = {
        "hmac": lambda: monkeypatch.setattr(guards.hmac, "compare_digest", lambda a, b: True),
        "max_body": lambda: monkeypatch.setattr(guards, "MAX_BODY", 1 << 40),
        "headers": lambda: monkeypatch.setattr(guards, "_HEADERS", {}),
        "open": lambda: monkeypatch.setattr(guards, "OPEN_PATHS", ("/",)),
    }
    patches[name]()


def test_only_who_shows_the_token_is_let_in(page, monkeypatch):
    for path in ("/", "/queue", "/items/1", "/next", "/progress", "/adjudicate", "/export/csv", "/items/1/history"):
        assert page.browser().get(path).status_code == 403, path
    assert save(page.browser()).status_code == 403
    assert [page.browser().get(f"/enter?token={token}").status_code for token in ("", "wrong")] == [403, 403]
    forged = page.browser(cookies={COOKIE: "x" * 43})
    assert forged.get("/queue").status_code == 403
    without(monkeypatch, "hmac")
    assert page.browser().get("/enter?token=wrong").status_code == 200


def test_a_token_is_compared_in_constant_time(page, monkeypatch):
    compared = []
    real = guards.hmac.compare_digest
    monkeypatch.setattr(guards.hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b))
    token = page.access.token
    page.browser().get(f"/enter?token={token[:-1]}")
    assert compared == [token.encode()]


def test_a_token_is_good_for_one_browser(page):
    token = page.access.token
    assert page.browser().get(f"/enter?token={token}").status_code == 200
    assert page.browser().get(f"/enter?token={token}").status_code == 403
    assert page.shown == [page.access.token] != [token]
    given = make_app(page.desk, Access(page.store, "g" * 24), {HOST}, COOKIE)
    for _ in range(2):  # one that the user chose is for all
        assert TestClient(given, base_url=f"http://{HOST}").get("/enter?token=" + "g" * 24).status_code == 200


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(page):
    answer = page.browser().get(f"/enter?token={page.access.token}")
    kept = answer.headers["set-cookie"].lower()
    assert "httponly" in kept and "samesite=strict" in kept and page.access.token.lower() not in kept
    session = kept.partition("=")[2].partition(";")[0]
    assert session not in str(sqlite3.connect(page.store.path).execute("select * from sessions").fetchall()).lower()


def test_another_host_name_is_refused(page, tmp_path):
    browser = page.entered()
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example:8765", "127.0.0.1:80", ""):
        assert browser.get("/queue", headers={"host": host}).status_code == 421, host
        assert browser.get(f"/enter?token={page.access.token}", headers={"host": host}).status_code == 421
    assert browser.get("/queue").status_code == 200
    open_to_all = make_app(page.desk, page.access, {HOST, "evil.example"}, COOKIE)
    rebound = TestClient(open_to_all, base_url=f"http://{HOST}", cookies=browser.cookies)
    assert rebound.get("/queue", headers={"host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("path", ["/items/1/save", "/items/1/act", "/items/1/decide", "/items/1/refine",
                                  "/items/1/colors", "/undo", "/reviewer", "/run", "/run/state"])
def test_a_write_without_the_pages_own_token_is_refused(path, page, monkeypatch):
    browser = page.entered()
    headers = {"content-type": "application/json"}
    for token in (None, "", "0" * 64):
        browser.headers.pop("x-csrf-token", None)
        more = {} if token is None else {"x-csrf-token": token}
        answer = browser.post(path, content="{}", headers=headers | more)
        assert answer.status_code == 403 and "not come from a page" in answer.text
    without(monkeypatch, "hmac")
    assert browser.post(path, content="{}", headers=headers).status_code != 403


def test_the_token_of_another_session_is_none(page):
    ann, bob = page.entered("ann"), page.entered("bob")
    ann.headers["x-csrf-token"] = bob.headers["x-csrf-token"]
    assert save(ann).status_code == 403 and page.store.review(1, "ann") is None


def test_a_form_of_another_site_is_refused(page):
    browser = page.entered()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert browser.post("/undo", content="{}", headers={"content-type": kind}).status_code == 415
    browser.headers["origin"] = "http://evil.example"
    assert save(browser).status_code == 403
    browser.headers["origin"] = f"http://{HOST}"
    assert save(browser).status_code == 200


def test_nothing_is_written_by_other_methods(page):
    browser = page.entered()
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert browser.request(method, "/items/1/save").status_code == 405
    assert browser.get("/items/1/save").status_code in (404, 405)
    assert "access-control-allow-origin" not in browser.get("/queue").headers


def test_no_script_but_ours_can_run(page, monkeypatch):
    browser = page.entered()
    for path in ("/queue", "/items/2", "/nowhere", "/static/review.js"):
        policy = browser.get(path).headers["content-security-policy"]
        rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["form-action"] == rules["connect-src"] == "'self'"
    refused = page.browser().get("/queue")
    assert refused.status_code == 403 and refused.headers["x-content-type-options"] == "nosniff"
    without(monkeypatch, "headers")
    assert "content-security-policy" not in browser.get("/queue").headers


def test_pages_hold_no_inline_script_or_style(page):
    browser = page.entered()
    save(browser, 2, NASTY, path="act", action="submit")
    for path in ("/queue", "/items/1", "/items/2", "/progress", "/adjudicate"):
        text = browser.get(path).text
        assert not re.search(r"<[^>]+\s(on\w+|style)\s*=", text), path
        for attributes, content in re.findall(r"<script([^>]*)>(.*?)</script>", text, re.S):
            assert ("src=" in attributes and not content) or 'type="application/json"' in attributes
        assert not re.search(r'(src|href|action)="(?!/|#)', text)  # no request to any other host


def test_everything_from_data_is_escaped(page, monkeypatch):
    browser = page.entered(name="<b>ann</b>")
    assert save(browser, 2, NASTY, path="act", action="submit").status_code == 200
    for path in ("/queue", "/items/2", "/progress"):
        text = browser.get(path).text
        assert "<script>alert" not in text and "<img" not in text and "<b>ann" not in text
    assert "&lt;img src=x onerror=alert(2)&gt;" in browser.get("/items/2").text
    state = re.search(r'id="state">(.*?)</script>', browser.get("/items/2").text, re.S)[1]
    assert json.loads(state)["draft"] == NASTY and json.loads(state)["entry"]["feedback"] == NASTY


def test_without_escaping_the_attack_would_work(page):
    pages = web_pages.Pages(page.desk, page.access, COOKIE)
    pages._templates.autoescape = False
    browser = page.entered()
    scope = {"type": "http", "method": "GET", "path": "/queue", "query_string": b"", "headers": [],
             "path_params": {"number": 2}, guards.SESSION: guards.hashed(browser.cookies[COOKIE]), guards.CSRF: "0"}
    from starlette.requests import Request

    assert b"<script>alert(1)</script>" in pages.item(Request(scope)).body


@pytest.mark.parametrize(("text", "bad"), [
    ("<script>alert(1)</script>", "<script"), ("[x](javascript:alert(1))", "href"),
    ("[x](JaVaScRiPt&#58;alert(1))", "href"), ("[x](data:text/html;base64,xx)", "href"),
    ("<img src=x onerror=alert(1)>", "<img"), ("![x](http://evil/p.png)", "<img"), ("[x](vbscript:x)", "href"),
    ("<javascript:alert(1)>", "href"),
])
def test_guidelines_are_sanitised(text, bad):
    import markdown_it

    assert bad not in web_pages.markdown(text)
    if bad == "<script" or "onerror" in text:
        assert bad in markdown_it.MarkdownIt("commonmark").render(text)  # what the setting html=False keeps out


def test_guidelines_are_markdown(tmp_path):
    page = Page(tmp_path, guidelines="# Read\n\n* *all* of [it](https://example.org)\n\n<b>no</b>")
    text = page.entered().get("/items/1").text
    assert "<h1>Read</h1>" in text and '<em>all</em> of <a href="https://example.org">' in text and "<b>no" not in text
    page.close()


@pytest.mark.parametrize("name", ["../review.sqlite", "..%2f..%2freview.sqlite", "%2e%2e/store.py", "/etc/passwd",
                                  "base.html", "review.js/../../store.py", "review.js%00.css", "C:\\x"])
def test_no_path_of_a_request_reaches_the_disk(name, page):
    browser = page.entered()
    assert browser.get(f"/static/{name}").status_code == 404
    assert browser.get(f"/export/{name}").status_code == 404
    assert browser.get("/static/review.js").status_code == 200


def test_long_bodies_are_refused(page, monkeypatch):
    browser = page.entered()
    large = json.dumps({"entry": {"feedback": "x" * 900_000}, "base": 0, "token": "t"})
    assert browser.post("/items/1/save", content=large, headers={"content-type": "application/json"}).status_code == 200
    monkeypatch.setattr(guards, "MAX_BODY", 1 << 20)
    assert save(browser, 3, "x" * (1 << 20)).status_code == 413

    def pieces():  # no length is given
        for _ in range(40):
            yield b" " * (1 << 16)

    kind = {"content-type": "application/json"}
    assert browser.post("/items/3/save", content=pieces(), headers=kind).status_code == 413
    without(monkeypatch, "max_body")
    assert browser.post("/items/3/save", content=pieces(), headers=kind).status_code == 400


def test_a_body_that_never_ends_is_given_up(page, monkeypatch):
    monkeypatch.setattr(guards, "BODY_SECONDS", 0.05)

    async def receive():
        await asyncio.sleep(10)

    answer = asyncio.run(guards._read_body(receive))
    assert answer.status_code == 408


def test_too_many_requests_are_refused(page):
    browser, other = page.entered(), page.entered("bob")
    page.limits.requests._burst = 5
    page.limits.requests._buckets.clear()
    codes = [browser.get("/queue").status_code for _ in range(8)]
    assert codes == [200] * 5 + [429] * 3
    assert other.get("/queue").status_code == 200  # one reviewer does not stop another
    page.limits.requests._burst = 1000
    page.limits.requests._buckets.clear()
    assert [browser.get("/queue").status_code for _ in range(8)] == [200] * 8


def test_tokens_cannot_be_tried_out(page):
    codes = [page.browser().get(f"/enter?token=guess{n}").status_code for n in range(30)]
    assert codes[:20] == [403] * 20 and set(codes[20:]) == {429}


@pytest.mark.parametrize(("body", "code"), [
    ("", 400), ("[]", 400), ("{", 400), ("[" * 100_000, 400), ('{"entry": {}}', 400), ('{"entry": 3, "base": 0}', 400),
    ('{"entry": {}, "base": -1, "token": "t"}', 400), ('{"entry": {}, "base": 1e400, "token": "t"}', 400),
    ('{"entry": {}, "base": 99999999999999999999, "token": "t"}', 400), ('{"entry": {}, "base": 0, "token": ""}', 400),
    ('{"entry": {}, "base": 0, "token": "t", "seconds": NaN}', 400), ("\xff\xfe", 400),
    ('{"entry": {"feedback": "\\ud800"}, "base": 0, "token": "t"}', 400),
])
def test_bodies_of_any_kind(body, code, page):
    browser = page.entered()
    answer = browser.post("/items/1/save", content=body.encode("latin-1"), headers={"content-type": "application/json"})
    assert answer.status_code == code and answer.json()["error"]


def test_items_that_there_are_not(page):
    browser = page.entered()
    for number in (0, 99, 2**63, 10**30):
        assert browser.get(f"/items/{number}").status_code == 404
        assert save(browser, number).status_code == 422
    assert browser.get("/items/-1").status_code == browser.get("/items/a").status_code == 404
    for path in ("/queue?page=99999999999", "/queue?page=-1&status=x", "/next?after=99999999999999999999999"):
        assert browser.get(path).status_code in (200, 303)


@pytest.mark.parametrize("name", ["", " ", "x" * 61, "a\x07b", "a‮b"])
def test_names_that_are_none(name, page):
    browser = page.entered()
    answer = browser.post("/reviewer", content=json.dumps({"name": name}), headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_a_full_disk_keeps_the_page_up(page, monkeypatch):
    browser = page.entered()
    assert save(browser).status_code == 200
    pages = page.store._db.execute("pragma page_count").fetchone()[0]
    page.store._db.execute(f"pragma max_page_count = {pages}")
    answer = save(browser, feedback="y" * 500_000, base=1, token="u")
    assert answer.status_code == 507 and "full" in answer.json()["error"] and "Make room" in answer.json()["error"]
    assert browser.get("/queue").status_code == browser.get("/items/1").status_code == 200
    assert save(browser, feedback="short", base=1, token="v").status_code == 200  # for this there is room
    with monkeypatch.context() as patch:
        patch.setattr(page.store, "claim", lambda *a: page.store._db.execute("select full from disk"))
        answer = browser.get("/items/2")
        assert answer.status_code == 507 and "Make room" in answer.text
    page.store._db.execute("pragma max_page_count = 1000000")
    assert save(browser, feedback="y" * 500_000, base=2, token="u").status_code == 200


def test_results_that_cannot_be_written_are_written_later(page, monkeypatch):
    from ilf_jax.review import outbox

    browser = page.entered()
    with monkeypatch.context() as patch:
        def full(*a):
            raise OSError(28, "No space left on device")

        patch.setattr(outbox.os, "fsync", full)
        answer = save(browser, 1, path="act", action="submit")
        assert answer.status_code == 507 and "saved here" in answer.json()["error"]
        assert page.results.read_bytes() == b""
    assert save(browser, 3, path="act", action="submit").status_code == 200
    assert [json.loads(line)["id"] for line in page.results.read_text().splitlines()] == ["a", "c"]


def test_long_documents(tmp_path):
    page = Page(tmp_path)
    page.store.add_items("r", [NewItem("long", "wörd " * 200_000, "‏draft")], "here")
    browser = page.entered()
    assert len(browser.get("/items/4").content) > 1_000_000 and len(browser.get("/queue").content) < 20_000
    page.close()


# Where the server listens.

@pytest.mark.parametrize(("flags", "words"), [
    ({"host": "0.0.0.0"}, "others can reach the page there; give a --token"), ({"host": "::"}, "give a --token"),
    ({"host": "10.0.0.1"}, "give a --token"), ({"host": "example.org"}, "give a --token"),
    ({"token": "short"}, "has 5 characters; give at least 20"), ({"host": "0.0.0.0", "token": "x"}, "at least 20"),
])
def test_other_addresses_need_a_token(flags, words, monkeypatch):
    with pytest.raises(InputError, match=words):
        address(monkeypatch, **flags)


def test_the_default_is_this_machine_alone(monkeypatch):
    assert address(monkeypatch) == "127.0.0.1"
    assert address(monkeypatch, host="0.0.0.0", token="x" * 20) == "0.0.0.0"


def address(monkeypatch, host="127.0.0.1", token=""):
    from types import SimpleNamespace

    serving = serving_module()
    monkeypatch.setattr(serving, "_HOST", SimpleNamespace(value=host))
    monkeypatch.setattr(serving, "_TOKEN", SimpleNamespace(value=token))
    return serving._check_address()


def serving_module():
    return import_program("ilf_jax.review.serving")


def test_names_of_the_server():
    hosts = serving_module().allowed_hosts("0.0.0.0", ["review.example"], 80)
    assert {"127.0.0.1:80", "localhost", "review.example:80", f"{socket.gethostname().lower()}:80"} <= hosts
    assert "evil.example" not in hosts
