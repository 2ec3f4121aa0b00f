"""report.html from made-up work folders: finished, unfinished, with arms, with texts that want to be markup."""

import base64
import dataclasses
import hashlib
import html
import html.parser
import json
import subprocess
import sys
import xml.etree.ElementTree

import pytest
from made_up_runs import declare, make_run, write_lines, write_stage

from ilf_jax import records
from ilf_jax.errors import InputError
from ilf_jax.evaluation import statistics
from ilf_jax.reporting import judgements, methods, plots, tables, workfolder
from ilf_jax.reporting.html_report import build_report
from ilf_jax.reporting.workfolder import Metric
from ilf_jax.runtime import files

VOID = {"meta", "br", "link", "img", "hr", "input"}


@pytest.fixture
def finished(tmp_path):
    path = make_run(tmp_path / "removal")
    declare(path, {"insult_rate": "lower"})
    make_run(path / "baselines" / "random", arm=True, better=0.4)
    make_run(path / "baselines" / "reference", arm=True, better=0.7)
    return path


class Page(html.parser.HTMLParser):
    """Checks nesting, and gathers ids, addresses and tags."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.ids, self.addresses = [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def read_page(path):
    text = path.read_text()
    return text, Page(text)


@pytest.mark.versions
@pytest.mark.fast
def test_finished_run(finished):
    path = build_report(finished)
    assert path == finished / "report.html"
    text, _ = read_page(path)
    assert "finished run" in text and "Missing or unreadable" not in text
    assert "0.600 [0.561, 0.639]" in text and "0.440 [0.401, 0.479]" in text  # before, and the random arm
    assert "<h1>ILF helped: insult rate fell from 0.600 to 0.200.</h1>" in text
    assert "lower is better" in text and "references" in text
    assert text.count("<figure") == 5 and text.count('class="bar"') == 3  # before training and two baselines
    assert "scorer (instruct_rm)" in text and "0.840 ± 0.020" in text
    assert "5:21" in text and "c0ffee" not in text and "0.10.2" in text
    assert "init:tiny&lt;&amp;&gt;" in text
    assert not list(finished.glob(".report*"))


def test_page_is_self_contained_and_ids_are_unique(finished):
    text, page = read_page(build_report(finished))
    assert all(address.startswith("#") for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert "@import" not in text and "url(http" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert_only_our_script(text, page)


def assert_only_our_script(text, page):
    """One block of data and one script, whose digest the page's policy names."""
    assert page.tags.count("script") == text.count("<script") == text.count("</script>") == 2
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html.unescape(text) and "default-src 'none'" in text
    assert "innerHTML" not in script and "eval(" not in script


def embedded(text):
    """The data that the page's script reads."""
    return json.loads(text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])


def test_same_files_same_page(finished):
    first = build_report(finished).read_bytes()
    assert build_report(finished).read_bytes() == first


@pytest.mark.fast
def test_changes_of_the_configuration_are_listed(tmp_path):
    path = make_run(tmp_path / "run", count=3)
    assert "--allow_change" not in read_page(build_report(path))[0]
    epochs = {"key": "finetune.epochs", "from": 1, "to": 2, "when": 1.7e9}
    write_lines(path / "changes.jsonl", [epochs, {"key": "score.method", "from": "random", "to": "<b>", "when": 1e300}])
    make_run(path / "baselines" / "slow", arm=True)
    rate = {"key": "finetune.learning_rate", "from": 1e-5, "to": None, "when": "?"}
    write_lines(path / "baselines" / "slow" / "changes.jsonl", [{**epochs, "when": 1.8e9}, rate])
    assert tables.changes_table(workfolder.read(path)).rows == [
        ["finetune.epochs", "1", "2", "2023-11-14 22:13 UTC"], ["score.method", '"random"', '"<b>"', "–"],
        ["finetune.learning_rate", "1e-05", "null", "–"]]
    text, _ = read_page(build_report(path))
    assert "Changed since the run began, by --allow_change" in text and "&lt;b&gt;" in text


@pytest.mark.fast
def test_texts_and_names_are_escaped(tmp_path):
    evil = "<script>alert(1)</script> & <b>"
    path = make_run(tmp_path / "<i>run", count=3)
    folder = path / "iteration_002"
    for k in (1, 2):
        nasty = [records.Example(f"t{i}", evil + " w" * 100, evil) for i in range(3)]
        write_lines(path / f"iteration_00{k}" / "examples.jsonl", nasty)
    write_stage(folder / "draft", [records.Draft(f"t{i}", evil, "policy") for i in range(3)])
    write_stage(folder / "feedback", [records.Feedback(f"t{i}", evil, evil) for i in range(3)])
    drawn = records.Candidates("t0", [evil, evil + "x"], [0.0, 0.0], [1, 1], [True, True])
    write_stage(folder / "refine", [drawn])
    write_stage(folder / "score", [records.Scored("t0", [0.1, 0.2], 1, {evil: 0})])
    with (path / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"iteration": 1, "stage": evil, "metric": evil, "value": 1.0}) + "\n")
        lines.write(json.dumps({"iteration": 1, "stage": "score", "metric": evil + '"$x_chosen', "value": 1.0}) + "\n")
    config = files.read_sealed(path / "config.json") | {"task": evil}
    files.write_json(path / "config.json", config)
    make_run(path / "baselines" / "<script>$arm_1$", arm=True)
    text, page = read_page(build_report(path))
    assert_only_our_script(text, page)
    assert "i" not in page.tags and "&lt;script&gt;alert(1)" in text
    data = embedded(text)  # as it was, and as text
    sample = next(s for view in data["views"] if (view["kind"], view["iteration"]) == ("training", 2)
                  for s in view["samples"] if s["id"] == "t0")
    assert sample["draft"] == sample["feedback"] == sample["source"] == evil
    assert [c["text"] for c in sample["candidates"]] == [evil, evil + "x"] and sample["candidates"][0]["also"] == [evil]
    assert data["documents"]["training"]["t0"]["title"] == evil and data["name"] == "<i>run"


def test_unfinished_run_shows_what_there_is(tmp_path):
    path = make_run(tmp_path / "run")
    folder = path / "iteration_002"
    for name in ("evaluate", "finetune"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()
    manifest = folder / "score" / "manifest.json"
    files.write_json(manifest, files.read_sealed(manifest) | {"complete": False})
    shard = folder / "score" / "00001-of-00002.jsonl"
    shard.write_text(shard.read_text()[:-20])
    text, _ = read_page(build_report(path))
    assert "unfinished run" in text
    assert "iteration 2: score is not finished (11 records so far)" in text
    assert "iteration 2: finetune" in text and "iteration 2: evaluate" in text
    assert "score/00001-of-00002.jsonl line 6 (cut off or damaged)" in text
    last = next(v for v in embedded(text)["views"] if (v["kind"], v["iteration"]) == ("training", 2))
    assert len(last["samples"]) == 12 and sum(s["score"] is not None for s in last["samples"]) == 11


@pytest.mark.parametrize("keep", ["config.json", "evaluate", "draft", "refine"])
def test_run_cut_short_at_any_stage(tmp_path, keep):
    path = make_run(tmp_path / "run", iterations=1)
    stages = ["config.json", "evaluate", "draft", "feedback", "refine"]
    wanted = stages[1 : stages.index(keep) + 1]
    (path / "metrics.jsonl").unlink()
    for number in (0, 1):
        for folder in (path / f"iteration_00{number}").glob("*/"):
            if folder.name not in wanted or (folder.name == "evaluate" and number):
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
    text, _ = read_page(build_report(path))
    assert "iteration 1: score" in text
    views = {view["kind"]: view["samples"] for view in embedded(text)["views"]}
    assert ("heldout" in views) == bool(wanted) and ("training" in views) == (keep in ("draft", "refine"))
    assert keep == "config.json" or "Nothing has been evaluated" in text  # without metrics
    candidates = {len(sample["candidates"]) for sample in views.get("training", ())}
    assert candidates == {"draft": {0}, "refine": {6}}.get(keep, set())


def test_bare_config(tmp_path):
    files.write_json(tmp_path / "config.json", {"iterations": 1})
    text, _ = read_page(build_report(tmp_path))
    assert "iteration 1" in text and "unfinished run" in text


@pytest.mark.fast
def test_values_that_are_measured_after_the_outputs(tmp_path):
    """They join the outputs of the stage, also for a baseline that shares it; older folders have none."""
    make_run(tmp_path, iterations=0)
    stage = tmp_path / "iteration_000/evaluate"
    assert not methods.per_document([workfolder.read(tmp_path)], "nll_reference")
    files.write_lines(stage / "values.jsonl", "".join(
        json.dumps({"id": f"h{i}", "values": {"nll_reference": 1.0 + i}}) + "\n" for i in range(9)))
    shared = tmp_path / "baselines/arm"
    files.write_json(shared / "config.json", files.read_sealed(tmp_path / "config.json"))
    files.write_json(shared / "iteration_000/evaluate/manifest.json",
                     {**files.read_sealed(stage / "manifest.json"), "records_in": "../../../../iteration_000/evaluate"})
    work = workfolder.read(tmp_path)
    for run in (work, work.baselines["arm"]):
        assert methods.per_document([run], "nll_reference") == {f"h{i}": 1.0 + i for i in range(9)}
        assert len(methods.per_document([run], "insult_rate")) == 9
    (stage / "values.jsonl").write_text('{"id": "h0", "values": {"nll_reference": 2.0}}\n')
    with pytest.raises(InputError, match=r"values\.jsonl"):
        workfolder.read(tmp_path)


def test_not_a_work_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        build_report(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no config\.json"):
        build_report(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        build_report(tmp_path)


def test_wrong_record_names_the_file(tmp_path):
    path = make_run(tmp_path / "run")
    write_lines(path / "iteration_001" / "draft" / "00000-of-00002.jsonl", [{"id": "t0", "txt": "?"}])
    with pytest.raises(InputError, match=r"draft/00000-of-00002\.jsonl line 1 is no Draft"):
        build_report(path)


def test_metric_written_twice_counts_once_and_nan_is_listed(tmp_path):
    path = make_run(tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as lines:
        lines.write('{"iteration": 2, "stage": "evaluate", "metric": "insult_rate", "value": 0.125, "stderr": null}\n')
        lines.write('{"iteration": 2, "stage": "evaluate", "metric": "rouge1", "value": NaN}\n{"itera')
    work = workfolder.read(path)
    assert [m.value for m in tables.series(work, "evaluate", "insult_rate")][-1] == 0.125
    assert any("no finite value" in what for what in work.missing) and any("cut off" in what for what in work.missing)


def test_headline_falls_back(tmp_path):
    path = make_run(tmp_path / "run")
    files.write_json(path / "config.json", {"iterations": 2, "evaluate": {"headline": "win_rate"}})
    assert tables.headline(workfolder.read(path)) == "rouge_l"  # the first general one that was measured
    declare(path, {"unmeasured": "lower", "insult_rate": "lower", "mean_words": "higher"})
    assert tables.headline(workfolder.read(path)) == "insult_rate"  # the task's first that was measured
    files.write_json(path / "config.json", {"iterations": 2, "evaluate": {"headline": "mean_words"}})
    assert tables.headline(workfolder.read(path)) == "mean_words"


def test_the_task_s_directions(tmp_path):
    path = make_run(tmp_path / "run")
    assert tables.direction(workfolder.read(path), "insult_rate") == ""
    assert "lower is better" not in build_report(path).read_text().lower()
    declare(path, {"insult_rate": "lower", "rouge": "lower"})
    work = workfolder.read(path)
    assert tables.direction(work, "insult_rate") == tables.direction(work, "insult_rate[10 words]") == "lower is better"
    assert tables.direction(work, "rouge_l") == "lower is better"  # the task knows better
    assert tables.direction(work, "nll_reference") == "lower is better"
    assert tables.direction(work, "win_rate_random") == "higher is better"
    assert tables.direction(work, "mean_words") == ""
    assert "lower is better" in build_report(path).read_text()


@pytest.mark.versions
@pytest.mark.fast
def test_rates_counted_by_hand(tmp_path):
    path = make_run(tmp_path / "run", iterations=1)
    drawn = [
        records.Candidates("t0", ["a", "a", "b", "c"], [0.0] * 4, [1] * 4, [True, True, True, False]),
        records.Candidates("t1", ["a", "b", "c", "d"], [0.0] * 4, [1] * 4, [True, False, True, True]),
    ]
    write_stage(path / "iteration_001" / "refine", drawn)
    measured = (path / "metrics.jsonl").read_text()
    found = tables.rates(workfolder.read(path))
    assert found["refine: stop rate"] == {1: 0.75} and found["refine: truncation rate"] == {1: 0.25}
    assert found["refine: equal candidates"] == {1: 0.07}  # measured by the run, so not counted again
    (path / "metrics.jsonl").write_text("".join(line for line in measured.splitlines(True) if "equal" not in line))
    counted = tables.rates(workfolder.read(path))
    assert counted["refine: equal candidates"] == {1: 0.25}  # two of the four of t0, none of t1
    assert counted.keys() == found.keys()
    assert found["evaluate: stop rate"] == {0: pytest.approx(8 / 9), 1: pytest.approx(8 / 9)}


@pytest.mark.parametrize(("value", "like", "text"), [
    (0.0, None, "0.000"), (0.4123, None, "0.412"), (23.44, None, "23.4"), (12345, None, "12,345"),
    (1e-5, None, "1.0e-05"), (8.359, 12.1, "8.4"), (0.5, 1.0, "0.500"), (0.5, 3.2, "0.50"), (-0.0001, 1, "0.000"),
    (0.0, 1e-4, "0")])
def test_number(value, like, text):
    assert tables.number(value, like) == text


@pytest.mark.parametrize(("value", "stderr", "like", "text"), [
    (0.0, 0.0, None, "0.000"), (0.5, 0.0004, None, "0.500 ± <0.001"), (8.359, 0.04, 12.1, "8.4 ± <0.1"),
    (12.1, 0.16, 12.1, "12.1 ± 0.2"), (2e-4, 3e-5, None, "2.0e-04 ± 3.0e-05"), (1234.0, 0.2, None, "1,234 ± <1")])
def test_no_error_is_shown_as_zero(value, stderr, like, text):
    assert tables.with_error(Metric(0, "", "", value, stderr), like) == text


def test_shares_have_wilson_s_interval():
    half = tables.interval(Metric(0, "", "", 0.5, (0.25 / 9) ** 0.5, 10))
    assert half == pytest.approx(statistics.wilson(5, 10))
    assert tables.interval(Metric(0, "", "", 0.5, 0.01, 10)) == pytest.approx((0.4804, 0.5196))  # a mean
    assert tables.interval(Metric(0, "", "", 0.5, None, 10)) is None


def test_figures_take_their_colours_from_the_page(finished):
    drawn = plots.draw(workfolder.read(finished))
    assert [plot.name for plot in drawn] == ["headline", "loss", "scorers", "lengths", "methods"]
    for plot in drawn:
        xml.etree.ElementTree.fromstring(plot.svg)
        assert "#0a0b" not in plot.svg and "var(--ink)" in plot.svg and "var(--series-0)" in plot.svg


def command(*args):
    return subprocess.run([sys.executable, "-m", "ilf_jax.report", *args], capture_output=True, text=True)


def test_command_line(finished, tmp_path):
    done = command(f"--workdir={finished}")
    assert done.returncode == 0 and done.stdout.strip() == str(finished / "report.html"), done.stderr
    wrong = command(f"--workdir={tmp_path / 'nowhere'}")
    assert wrong.returncode == 2 and "no such folder" in wrong.stderr and "Traceback" not in wrong.stderr
    assert command().returncode == 2


def test_no_jax(finished):
    code = (
        "import sys, ilf_jax.report; from ilf_jax.reporting.html_report import build_report; build_report(sys.argv[1]);"
        "assert not {'jax', 'jaxlib', 'flax', 'orbax', 'tensorflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(finished)], check=True)


def test_reward_model_best_of_n_and_ranking(tmp_path):
    path = make_run(tmp_path / "run", iterations=1)
    config = files.read_sealed(path / "config.json")
    config["evaluate"] |= {"best_of_n": 4, "rank": True}
    config["reward"] = {"source": "jsonl:pairs.jsonl"}
    files.write_json(path / "config.json", config)
    missing = workfolder.read(path).missing
    assert missing == ["iteration 0: reward", "iteration 0: best_of_n", "iteration 1: best_of_n", "iteration 1: rank"]
    preferences = [records.Preference(f"c{i}", 0.5 + i / 50, "first" if i % 3 else "second") for i in range(20)]
    write_stage(path / "iteration_000" / "reward", preferences)
    for k in (0, 1):
        best = [records.BestOfN(f"h{i}", ["a", "b"], [0.1, 0.2], 1) for i in range(9)]
        write_stage(path / f"iteration_00{k}" / "best_of_n", best)
    outcomes = {f"h{i}": float(i > 1) for i in range(9)}
    match = records.Match("before_training vs refinement_best_of_4", "before_training", "refinement_best_of_4",
                          outcomes, 7 / 9, 0.147, 0.5, 1.0, 0.75)
    write_stage(path / "iteration_001" / "rank", [match], shards=1)
    with (path / "metrics.jsonl").open("a") as lines:
        for k, value in ((0, 0.55), (1, 0.111)):
            lines.write(json.dumps({"iteration": k, "stage": "best_of_n", "metric": "insult_rate", "value": value,
                                    "stderr": 0.01, "n": 9}) + "\n")
    text, page = read_page(build_report(path))
    assert "finished run" in text and "ILF, best of 4" in text and "0.111 ± 0.010" in text
    assert "Systems against each other" in text and "0.778 ± 0.147" in text and "0.222 (0.000 to 0.500)" in text
    assert "Calibration of the reward model" in text
    assert text.count("<figure") == page.tags.count("figure") == 6
    for plot in plots.draw(workfolder.read(path)):
        xml.etree.ElementTree.fromstring(plot.svg)


def test_scorers_that_agree(tmp_path):
    path = make_run(tmp_path / "run", iterations=1)
    scored = [records.Scored(f"t{i}", [0.1, 0.9], 1, {"random": i % 2, "longest": 1, "first": 0},
                             [[0.0, 0.7 * i], [1.0, 0.5]]) for i in range(2)]
    write_stage(path / "iteration_001" / "score", scored)
    drawn = [records.Candidates(f"t{i}", ["a", "b"], [0.0] * 2, [1] * 2, [True] * 2) for i in range(2)]
    write_stage(path / "iteration_001" / "refine", drawn)
    table = judgements.agreement_table(workfolder.read(path))
    assert table.columns == ["same text, iteration 1", "scorer", "prompt 1", "prompt 2", "random", "longest", "first"]
    by_name = {row[0]: row[1:] for row in table.rows}
    assert by_name["scorer"] == ["", "1.000", "0.500", "0.500", "1.000", "0.000"]
    assert by_name["prompt 2"][3] == "0.000"  # it picks 1, then 0; random 0, then 1
    equal = [dataclasses.replace(record, texts=["a", "a"]) for record in drawn]
    write_stage(path / "iteration_001" / "refine", equal)
    work = workfolder.read(path)
    assert {cell for row in judgements.agreement_table(work).rows for cell in row[1:]} == {"", "1.000"}
    found = tables.scorer_table(work)
    assert found.columns[-3:] == ["score, iteration 1", "words, iteration 1", "same text as scorer, iteration 1"]
    assert {row[0]: row[-1] for row in found.rows}["first"] == "1.000"


def test_a_scorer_that_does_not_judge_has_no_score_to_show(tmp_path):
    path = make_run(tmp_path / "run", iterations=1)
    files.write_json(path / "config.json", files.read_sealed(path / "config.json") | {"score": {"method": "random"}})
    found = tables.scorer_table(workfolder.read(path))
    assert not any(head.startswith("score") for head in found.columns)
    assert {len(row) for row in found.rows} == {len(found.columns)} and found.rows[0][0] == "scorer (random)"


def test_time_of_baselines_is_said_apart(finished):
    work = workfolder.read(finished)
    assert tables.total_times(dataclasses.replace(work, baselines={})) == "The run itself took 14:09."
    assert tables.total_times(work).endswith("Its baselines took 27:30 more, which the table leaves out.")
