"""The report and a sweep's page in a real browser: both themes, a phone, keys alone, copying, hostile texts."""

import json
import os
import pathlib

import pytest
from made_up_runs import declare, make_run, write_lines, write_stage

from ilf_jax import records
from ilf_jax.reporting.html_report import build_report
from ilf_jax.runtime import storage
from ilf_jax.sweeps import folders, grid, page, results

HERE = pathlib.Path(__file__).parent
IMAGES = os.environ.get("ILF_WRITE_IMAGES")  # a folder: pictures of what is tested are written there
LONG_NAME = "a baseline with a name that is far too long for any legend or axis"
# Of one figure the labels that lie on each other, by what the browser draws.
OVERLAPS = """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([_, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
      && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1
  ).map(([b]) => svg.getAttribute('aria-label') + ': ' + a + ' | ' + b))
})"""
# Of one figure the labels that are cut at its edge.
CUT = """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect()
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect()
    return box.left < frame.left - 1 || box.right > frame.right + 1
  }).map(text => svg.getAttribute('aria-label') + ': ' + text.textContent)
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A run of six iterations with four baselines."""
    path = make_run(tmp_path_factory.mktemp("report") / "removal", iterations=6, better=0.3)
    declare(path, {"insult_rate": "lower"})
    for name, better in (("random", 0.1), ("initial", 0.02), (LONG_NAME, 0.2), (f"{LONG_NAME}, too", 0.3)):
        make_run(path / "baselines" / name, iterations=6, arm=True, better=better)
    return build_report(path)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two arms by four sizes by three seeds, as their runs would have left them."""
    folder = storage.path(tmp_path_factory.mktemp("sweep"))
    cells = grid.product(grid.axis("finetune.target", "refinement", "initial"),
                         grid.axis("data.train_size", 32, 64, 128, 256), grid.axis("seed", 0, 1, 2))
    made = grid.Sweep("configs/quickstart.py", cells, ("evaluate/insult_rate",), x="data.train_size")
    for cell in cells:
        size, seed = cell["data.train_size"], cell["seed"]
        after = 0.95 - 0.01 * seed if cell["finetune.target"] == "initial" else 24 / size + 0.03 * seed
        place = folders.cell_folder(folder, cell)
        write_lines(place / "metrics.jsonl", [
            {"iteration": k, "stage": "evaluate", "metric": "insult_rate", "value": value, "stderr": 0.02, "n": 128}
            for k, value in ((0, 0.98 + 0.005 * seed), (1, after))])
        (place / "report.html").write_text("<title>a cell</title>")
        folders.beside(place, ".done").write_text("{}")
    return page.build(made, results.collect(made, folder), folder, "quickstart_data")


def check_accessible(opened):
    opened.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    opened.evaluate((HERE / "axe/axe.min.js").read_text(encoding="utf-8"))
    found = opened.evaluate("axe.run().then(result => result.violations)")
    serious = [(v["id"], [node["html"][:200] for node in v["nodes"]][:3]) for v in found
               if v["impact"] in ("serious", "critical")]
    assert not serious


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_readable_on_every_screen(scheme, width, report, sweep, open_page):
    # Our policy refuses axe: it is a script.
    opened = open_page(color_scheme=scheme, viewport={"width": width, "height": 844}, bypass_csp=True)
    for path in (report, sweep):
        opened.goto(path.as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        assert opened.evaluate(OVERLAPS) == [] and opened.evaluate(CUT) == []
        hints = opened.locator(".hint:not([hidden])").count()
        assert hints > 0 if width == 390 else True
        if IMAGES:
            opened.screenshot(path=f"{IMAGES}/{path.parent.name}_{scheme}_{width}.png", full_page=True)
        check_accessible(opened)
    label = "document.querySelector('figure svg text')"
    opened.evaluate(f"{label}.after({label}.cloneNode(true))")
    assert opened.evaluate(OVERLAPS)  # it sees one
    link = opened.locator("td.links a").first
    assert link.inner_text() == "seed 0"
    link.click()
    assert opened.title() == "a cell"


def test_samples_by_keys_alone(report, open_page):
    opened = open_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.goto(report.as_uri())
    assert opened.inner_text("h1").startswith("ILF helped: insult rate fell from 0.600 to 0.240")
    keys, title = opened.keyboard, lambda: opened.inner_text("#sample h3")

    def to(selector):
        for _ in range(60):
            keys.press("Tab")
            if opened.evaluate(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    def copied():
        keys.press("c")
        opened.wait_for_selector("#copied:text-is('copied')")
        return json.loads(opened.evaluate("navigator.clipboard.readText()"))

    assert opened.input_value("#kind") == "heldout" and opened.input_value("#order") == "worst"
    values = [float(text.split()[2]) for text in opened.locator("#list .numbers").all_inner_texts()]
    assert values == sorted(values, reverse=True) and len(values) == 9 and title() == "Held out 8"
    opened.select_option("#kind", "training")
    assert opened.input_value("#order") == "data"
    to("#list button")
    assert title() == "Text 0"
    keys.press("ArrowDown")
    keys.press("j")
    assert title() == "Text 2"
    sample = copied()
    rows = [json.loads(line) for shard in sorted((report.parent / "iteration_001/refine").glob("*.jsonl"))
            for line in shard.read_text().splitlines()]
    assert (sample["id"], sample["iteration"], sample["system"]) == ("t2", 1, "ILF")
    assert [c["text"] for c in sample["candidates"]] == next(row["texts"] for row in rows if row["id"] == "t2")
    assert sample["document"]["title"] == "Text 2" and sample["new_draft_iteration"] == 2
    assert "The policy's new draft, iteration 2" in opened.inner_text("#sample")
    keys.press("k")
    assert title() == "Text 1"
    keys.press("/")
    keys.type("text 1")  # of twelve: 1, 10, 11
    assert opened.inner_text("#count").startswith("3 of ")
    keys.press("Shift+Tab")  # to the order
    keys.press("ArrowDown")
    assert opened.input_value("#order") == "-score"
    scores = [float(text.split()[1]) for text in opened.locator("#list .numbers").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    keys.press("Shift+Tab")
    keys.press("ArrowDown")  # iteration 2
    to("#list button")
    assert copied()["iteration"] == 2
    opened.select_option("#kind", "heldout")
    assert opened.is_hidden("#iteration")
    opened.fill("#search", "")
    assert "After iteration 6, insult rate" in opened.inner_text("#sample")
    with opened.expect_download() as download:
        opened.click("#download")
    assert download.value.suggested_filename == "removal_metrics.csv"
    assert pathlib.Path(download.value.path()).read_text().startswith("system,iteration,stage,metric,value")


NASTY = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!--\u2028‮gnp"


def test_hostile_texts_stay_texts(open_page, tmp_path):
    path = make_run(tmp_path / "run", iterations=1, count=3)
    folder = path / "iteration_001"
    write_lines(folder / "examples.jsonl", [records.Example(f"t{i}", NASTY, NASTY) for i in range(3)])
    write_stage(folder / "draft", [records.Draft(f"t{i}", NASTY, "policy") for i in range(3)])
    write_stage(folder / "feedback", [records.Feedback(f"t{i}", NASTY, NASTY) for i in range(3)])
    write_stage(folder / "refine", [records.Candidates("t0", [NASTY, f"{NASTY}x"], [0.0] * 2, [1] * 2, [True] * 2)])
    write_stage(folder / "score", [records.Scored("t0", [0.1, 0.2], 1, {NASTY: 0})])
    make_run(path / "baselines" / "<b onclick=alert(1)>arm", iterations=1, arm=True)
    opened = open_page()
    requests = []
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(build_report(path).as_uri())
    opened.select_option("#kind", "training")
    opened.wait_for_selector("#sample .candidates")
    assert opened.title() != "owned" and opened.locator("main img, main script, main b[onclick]").count() == 0
    assert opened.locator("#sample .text").first.text_content() == NASTY
    assert "<b onclick=alert(1)>arm" in opened.inner_text("#results")
    assert len(requests) == 1 and requests[0].startswith("file://")
