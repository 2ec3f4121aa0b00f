"""report.html from made-up work folders: finished, unfinished, with arms, with texts that want to be markup."""

import dataclasses
import html.parser
import json
import random
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from ilf_jax import records
from ilf_jax.errors import InputError
from ilf_jax.reporting import judgements, plots, samples, tables, workfolder
from ilf_jax.reporting.html_report import build_report
from ilf_jax.runtime import files

VOID = {"meta", "br", "link", "img", "hr", "input"}
TEXT = "the plan was to leave early but a storm came over the hills and nobody wanted to drive home so"
WORDS = TEXT.split()


def sentence(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count)).capitalize() + "."


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_stage(folder, rows, seconds=3.0, complete=True, shards=2):
    for shard in range(shards):
        write_lines(folder / f"{shard:05d}-of-{shards:05d}.jsonl", rows[shard::shards])
    manifest = {
        "complete": complete,
        "count": len(rows),
        "config_hash": "c0ffee",
        "versions": {"jax": "0.10.2", "ilf_jax": "0.1"},
        "cost": {"seconds": seconds},
        "shards": shards,
    }
    files.write_json(folder / "manifest.json", manifest)


def make_run(path, iterations=2, count=12, candidates=6, arm=False, better=1.0):
    rng = random.Random(len(str(path.name)))
    config = {"task": "word_removal", "iterations": iterations, "seed": 0, "score": {"method": "instruct_rm"}}
    config |= {"evaluate": {"headline": "insult_rate"}, "policy": {"checkpoint": "init:tiny<&>"}}
    config |= {"finetune": {"target": "reference" if arm else "refinement"}}
    path.mkdir(parents=True, exist_ok=True)
    files.write_json(path / "config.json", config)
    metrics = []

    def metric(k, stage, name, value, stderr=0.02, n=count):
        metrics.append({"iteration": k, "stage": stage, "metric": name, "value": value, "stderr": stderr, "n": n})

    heldout = [
        records.Example(f"h{i}", sentence(rng, 150), f"Held out {i}", reference=sentence(rng, 15)) for i in range(9)
    ]
    for k in range(0, iterations + 1):
        folder = path / f"iteration_{k:03d}"
        outputs = [records.Output(e.id, sentence(rng, 24 - 4 * k), 30, i != 3, -20.0) for i, e in enumerate(heldout)]
        write_stage(folder / "evaluate", outputs, 61.0)
        write_lines(folder / "evaluate" / "examples.jsonl", heldout)
        metric(k, "evaluate", "rouge_l", 0.2 + 0.05 * k * better)
        metric(k, "evaluate", "insult_rate", 0.6 - 0.2 * k * better)
        metric(k, "evaluate", "mean_words", 24.0 - 4 * k, 0.5)
        if k == 0:
            continue
        examples = [records.Example(f"t{i}", sentence(rng, 40 + 20 * i), f"Text {i}") for i in range(count)]
        write_lines(folder / "examples.jsonl", examples)
        targets = [records.Target(e.id, "prompt", "completion", "chosen") for e in examples]
        write_stage(folder / "finetune", targets, 321.0)
        losses = [{"step": s, "loss": 3 / (1 + s / 50) + rng.random() / 5, "learning_rate": 1e-4} for s in range(400)]
        write_lines(folder / "finetune" / "steps.jsonl", losses)
        metric(k, "finetune", "loss", 1.2, None, None)
        if arm:
            continue
        drafts = [sentence(rng, 20) for _ in examples]
        write_stage(folder / "draft", [records.Draft(e.id, d, "policy") for e, d in zip(examples, drafts, strict=True)])
        write_stage(folder / "feedback", [records.Feedback(e.id, "Leave out “storm”.", "oracle") for e in examples])
        texts = [
            [" ".join(w for w in d.split() if w != "storm" and rng.random() > 0.1) for _ in range(candidates)]
            for d in drafts
        ]
        write_stage(
            folder / "refine",
            [
                records.Candidates(e.id, t, [-9.0] * candidates, [20] * candidates, [True] * (candidates - 1) + [False])
                for e, t in zip(examples, texts, strict=True)
            ],
        )
        scored = []
        for e in examples:
            scores = [rng.random() for _ in range(candidates)]
            scored.append(
                records.Scored(e.id, scores, scores.index(max(scores)), {"random": 1, "longest": 2, "first": 0})
            )
        write_stage(folder / "score", scored)
        metric(k, "refine", "exact_match", 0.31)
        metric(k, "refine", "equal_candidates", 0.07)
        for name, value in (("chosen", 0.8), ("random", 0.3), ("longest", 0.25), ("first", 0.35)):
            metric(k, "score", f"exact_match_{name}", value + 0.02 * k)
    write_lines(path / "metrics.jsonl", metrics)
    return path


def declare(path, directions):
    """As if the run's task declared these metrics."""
    files.write_json(path / "run.json", {"format": 2, "started": 0.0, "metric_directions": directions})


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
    text, page = read_page(path)
    assert "Finished run." in text and "Missing or unreadable" not in text
    assert "0.600 ± 0.020" in text and "0.200 ± 0.020" in text and "0.440 ± 0.020" in text  # before, ILF, random arm
    assert "Lower is better." in text and "references" in text
    assert page.tags.count("svg") == 6
    assert "scorer (instruct_rm)" in text and "0.840 ± 0.020" in text
    assert "5:21" in text and "c0ffee" not in text and "0.10.2" in text
    assert text.count('<li class="chosen">') == 8 and text.count(">After iteration 2") == 8
    assert "init:tiny&lt;&amp;&gt;" in text
    assert "<del>" in text and "2 others" in text
    assert not list(finished.glob(".report*"))


def test_page_is_self_contained_and_ids_are_unique(finished):
    text, page = read_page(build_report(finished))
    assert all(address.startswith("#") for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert "@import" not in text and "url(http" not in text and "<script" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


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
    write_lines(folder / "examples.jsonl", [records.Example(f"t{i}", evil + " w" * 100, evil) for i in range(3)])
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
    assert "script" not in page.tags and "i" not in page.tags
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text


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
    assert "Unfinished run." in text
    assert "iteration 2: score is not finished (11 records so far)" in text
    assert "iteration 2: finetune" in text and "iteration 2: evaluate" in text
    assert "score/00001-of-00002.jsonl line 6 (cut off or damaged)" in text
    assert text.count('<li class="chosen">') == 8


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
    assert ("Held-out texts" in text) == bool(wanted)
    assert ("6 refinements" in text) == (keep == "refine")


def test_bare_config(tmp_path):
    files.write_json(tmp_path / "config.json", {"iterations": 1})
    text, _ = read_page(build_report(tmp_path))
    assert "iteration 1" in text and "Unfinished run." in text


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
    assert "Lower is better" in build_report(path).read_text()


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


def test_difference_joins_to_the_texts_and_marks_words():
    before, after = "The cat  sat on\nthe mat.", "The dog sat on the mat. "
    left, right = samples.difference(before, after)
    assert "".join(text for _, text in left) == before and "".join(text for _, text in right) == after
    assert [text for differs, text in left if differs] == ["cat"]
    assert [text for differs, text in right if differs] == ["dog"]
    assert samples.difference("", "new") == ([], [(True, "new")])


def test_unrelated_texts_stand_unmarked():
    assert samples.side_by_side("a b c d", "e f a g") == ([(False, "a b c d")], [(False, "e f a g")])
    assert (True, "x") in samples.side_by_side("a b c", "a b x")[1]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.000"), (0.4123, "0.412"), (23.44, "23.4"), (12345, "12,345")])
def test_number(value, text):
    assert tables.number(value) == text
    assert tables.number(1e-5) == "1.0e-05"


def test_figures_take_their_colours_from_the_page(finished):
    drawn = plots.draw(workfolder.read(finished))
    assert [plot.name for plot in drawn] == ["headline", "methods", "scorers", "loss", "lengths", "rates"]
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
    assert "Finished run." in text and "ILF, best of 4" in text and "0.111 ± 0.010" in text
    assert "Systems against each other" in text and "0.778 ± 0.147" in text and "0.222 (0.000 to 0.500)" in text
    assert "Calibration of the reward model" in text
    assert page.tags.count("svg") == 7
    for plot in plots.draw(workfolder.read(path)):
        xml.etree.ElementTree.fromstring(plot.svg)


def test_scorers_that_agree(tmp_path):
    path = make_run(tmp_path / "run", iterations=1)
    scored = [records.Scored(f"t{i}", [0.1, 0.9], 1, {"random": i % 2, "longest": 1, "first": 0},
                             [[0.0, 0.7 * i], [1.0, 0.5]]) for i in range(2)]
    write_stage(path / "iteration_001" / "score", scored)
    table = judgements.agreement_table(workfolder.read(path))
    assert table.columns == ["same pick", "scorer", "prompt 1", "prompt 2", "random", "longest", "first"]
    by_name = {row[0]: row[1:] for row in table.rows}
    assert by_name["scorer"] == ["", "1.000", "0.500", "0.500", "1.000", "0.000"]
    assert by_name["prompt 2"][3] == "0.000"  # it picks 1, then 0; random 0, then 1
