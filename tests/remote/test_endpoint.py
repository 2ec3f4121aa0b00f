"""What a run makes of a server that refuses, is busy, talks nonsense or stays silent; and what it never asks twice."""

import dataclasses
import json
import math
import threading
import time

import pytest
from servers import completion, serving

from ilf_jax import config as config_lib
from ilf_jax.errors import InputError, TryAgainError
from ilf_jax.remote import api_uris, endpoint, endpoints
from ilf_jax.remote.remote_model import Answer, favourable_probability

pytestmark = pytest.mark.fast

KEY = "sk-do-not-write-this-down"
WRITING = {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 5, "stop": ("\n",)}
QUESTION = ("Is it good?", ("Yes", "No"))
LIKELY = {"Yes": math.log(0.6), "No": math.log(0.2), " yes": math.log(0.1), "Never": math.log(0.05)}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """judge(url, **config.api) -> the judge of a run in tmp_path / "run", which is there."""
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def make(url, key="JUDGE_KEY", **settings):
        api = dataclasses.replace(config_lib.Config().api, **{"retries": 2, "timeout": 20.0, "samples": 4, **settings})
        section = dataclasses.replace(config_lib.Config().judge, checkpoint=f"api:{url}#m", api_key_variable=key)
        config = dataclasses.replace(config_lib.Config(), api=api, judge=section)
        found = endpoints.Endpoints(config, tmp_path / "run")
        model = found.model("judge", section)
        found.begin()
        return model

    return make


def written(tmp_path):
    return sorted((tmp_path / "run" / endpoints.FOLDER).glob("*"))


def test_texts_are_written_and_a_second_run_asks_nothing(judge, tmp_path):
    with serving(lambda body, headers, n: (200, {}, completion(f" Text {body['seed']}\nand more"))) as (url, requests):
        for _ in range(2):
            replies = judge(url).write(["a", "b", "a"], [1, 2, 1], **WRITING).result()
            assert [(r.text, r.stopped, r.tokens) for r in replies] == [
                ("Text 1", True, 1), ("Text 2", True, 1), ("Text 1", True, 1)]
        assert len(requests) == 2 == len(written(tmp_path))
        assert judge(url).write(["a"], [3], **WRITING).result()[0].text == "Text 3" and len(requests) == 3
    assert requests[0]["path"] == "/v1/chat/completions" and requests[0]["key"] == f"Bearer {KEY}"
    body = next(r["body"] for r in requests if r["body"]["seed"] == 2)
    assert body == {"model": "m", "messages": [{"role": "user", "content": "b"}], "max_tokens": 5, "temperature": 0.7,
                    "top_p": 1.0, "seed": 2}
    assert not any(KEY in path.read_text() for path in written(tmp_path))


def test_answers_are_read_from_the_first_token(judge):
    with serving(lambda body, headers, n: (200, {}, completion("Yes", LIKELY))) as (url, requests):
        assert judge(url).answer([QUESTION]).result() == [Answer(pytest.approx(0.7 / 0.9), 0.0, True)]
        assert requests[-1]["body"]["max_tokens"] == 1 and requests[-1]["body"]["top_logprobs"] == 20


@pytest.mark.parametrize(("top", "answers", "expected"), [
    (LIKELY, ("Yes", "No"), 0.7 / 0.9),
    ({"A": math.log(0.3), "B": math.log(0.1), "a": math.log(0.5)}, ("A", "B"), 0.75),
    ({" Y": -1.0, "The": -0.1}, ("Yes", "No"), 1.0),
    ({"The": -0.1}, ("Yes", "No"), None),
    ({"": -0.1, " ": -0.1}, ("Yes", "No"), None),
    ({"I": -1.0, "It is": -1.0}, ("It is", "It is not"), None),
])
def test_which_tokens_count(top, answers, expected):
    found = favourable_probability(list(top.items()), answers)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("refuses", [False, True])
def test_without_logprobs_answers_are_drawn(judge, refuses):
    said = ["Yes, it is", "**No**", "yes", "Hm"]

    def answer(body, headers, n):
        if "logprobs" in body and refuses:
            return 400, {}, {"error": {"message": "logprobs are not supported"}}
        return 200, {}, completion(said[body["seed"]])

    with serving(answer) as (url, requests):
        (found,) = judge(url).answer([QUESTION]).result()
        before = len(requests)
        assert judge(url).answer([QUESTION]).result() == [found] and len(requests) == before
    share, n = 2 / 3, 3
    assert found.probability == pytest.approx(share) and found.answered
    assert found.stderr == pytest.approx(math.sqrt(share * (1 - share) / n + 1 / (4 * n * n)) / (1 + 1 / n))


def test_a_model_that_never_answers(judge):
    with serving(lambda body, headers, n: (200, {}, completion("Hm"))) as (url, _):
        assert judge(url).answer([QUESTION]).result() == [Answer(0.5, 0.5, False)]


@pytest.mark.parametrize(("status", "content", "said"), [
    (401, {"error": {"message": f"Incorrect key {KEY}"}}, r"HTTP 401: Incorrect key \*\*\*; the key in the variable "
     "that config.judge.api_key_variable names is refused"),
    (404, b"page not found", "HTTP 404: page not found; is 'm' the name of a model there"),
    (400, {"error": {"message": "request (3031 tokens) exceeds the context"}}, "HTTP 400: request .3031 tokens. exc"),
    (307, b"", "redirects are not followed"),
])
def test_refused(judge, tmp_path, status, content, said):
    with serving(lambda body, headers, n: (status, {"Location": "/v2"}, content)) as (url, requests):
        with pytest.raises(InputError, match=f"config.judge.checkpoint: {url}: .*{said}") as error:
            judge(url).write(["a"], [1], **WRITING).result()
        assert len(requests) == 1 and KEY not in str(error.value)


def test_401_without_a_key(judge):
    with serving(lambda body, headers, n: (401, {}, b"")) as (url, requests):
        with pytest.raises(InputError, match=r"it wants a key: .* by config\.judge\.api_key_v"):
            judge(url, key=None).check()
        assert requests[0]["key"] is None


def test_a_busy_server_is_waited_for_as_it_asks(judge):
    times = []

    def answer(body, headers, n):
        times.append(time.monotonic())
        return (429, {"Retry-After": "1"}, {"error": "slow down"}) if n == 0 else (200, {}, completion("ok"))

    with serving(answer) as (url, _):
        assert judge(url).write(["a"], [1], **WRITING).result()[0].text == "ok"
    assert len(times) == 2 and times[1] - times[0] >= 1


@pytest.mark.parametrize(("status", "headers", "tries", "said"), [
    (429, {"Retry-After": "0"}, 3, r"HTTP 429 \(too many requests\): slow down"),
    (429, {"Retry-After": "86400"}, 1, "asks to wait 86400 s: slow down"),
    (503, {}, 3, "HTTP 503: slow down"),
])
def test_a_server_that_stays_busy(judge, status, headers, tries, said):
    with serving(lambda body, given, n: (status, headers, {"error": {"message": "slow down"}})) as (url, requests):
        with pytest.raises(TryAgainError, match=said):
            judge(url).write(["a"], [1], **WRITING).result()
        assert len(requests) == tries


@pytest.mark.parametrize("content", [
    b"<html>Bad gateway</html>", b'{"choices": [', b"{}", b'{"choices": [{"message": {"content": 5}}]}',
    b'{"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"top_logprobs": [{"token": 1, '
    b'"logprob": 0}]}]}}]}',
])
def test_broken_json(judge, tmp_path, content):
    with serving(lambda body, headers, n: (200, {}, content)) as (url, requests):
        with pytest.raises(InputError, match=r"not JSON|no chat completion|other values"):
            judge(url).write(["a"], [1], **WRITING).result()
        assert len(requests) == 3 and not written(tmp_path)


def test_a_silent_server(judge):
    hold = threading.Event()

    def answer(body, headers, n):
        hold.wait(30)
        return 200, {}, completion()

    with serving(answer) as (url, requests):
        with pytest.raises(TryAgainError, match=r"no answer within config.api.timeout=0.2 s"):
            judge(url, timeout=0.2, retries=1).write(["a"], [1], **WRITING).result()
        assert len(requests) == 2
        hold.set()


def test_nobody_there(judge):
    with serving(lambda *_: None) as (url, _):
        pass
    with pytest.raises(InputError, match=r"cannot be reached: .*; is the server running"):
        judge(url).check()
    with pytest.raises(TryAgainError, match=r"cannot be reached"):
        judge(url, retries=0).write(["a"], [1], **WRITING).result()


def test_the_budget_counts_what_earlier_starts_have_spent(judge, tmp_path):
    with serving(lambda body, headers, n: (200, {}, completion(tokens=(90, 10)))) as (url, requests):
        assert len(judge(url, max_requests=2).write(["a", "b"], [1, 1], **WRITING).result()) == 2
        with pytest.raises(InputError, match=r"config.api.max_requests=2: .* \(2 requests and 200 tokens so far\)"):
            judge(url, max_requests=2).write(["a", "c"], [1, 1], **WRITING).result()
        with pytest.raises(InputError, match=r"config.api.max_tokens=150: .*--allow_change=api"):
            judge(url, max_tokens=150).write(["c"], [1], **WRITING).result()
        assert len(judge(url, max_tokens=201).write(["a", "c"], [1, 1], **WRITING).result()) == 2
        assert len(requests) == 3


def test_requests_under_way_are_limited_and_what_came_before_an_error_is_kept(judge, tmp_path):
    now, most, counting = [0], [0], threading.Lock()

    def answer(body, headers, n):
        with counting:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with counting:
            now[0] -= 1
        return (400, {}, b"no") if body["seed"] == 5 else (200, {}, completion())

    with serving(answer) as (url, requests):
        with pytest.raises(InputError, match=r"HTTP 400: no"):
            judge(url, concurrency=3).write(["a"] * 9, range(9), **WRITING).result()
        assert most[0] == 3 and len(written(tmp_path)) == 8
        with pytest.raises(InputError, match=r"HTTP 400: no"):
            judge(url).write(["a"] * 9, range(9), **WRITING).result()
        assert len(requests) == 10


def test_a_damaged_answer_is_never_used(judge, tmp_path):
    with serving(lambda body, headers, n: (200, {}, completion())) as (url, _):
        judge(url).write(["a"], [1], **WRITING).result()
        (path,) = written(tmp_path)
        path.write_text(path.read_text().replace('"Yes"', '"No"'))
        with pytest.raises(InputError, match=r"is damaged.*delete it to have the request sent again"):
            judge(url).write(["a"], [1], **WRITING).result()


@pytest.mark.parametrize(("uri", "said"), [
    ("api:http://127.0.0.1:8000/v1", "names no model"),
    ("api:127.0.0.1:8000/v1#m", "names no http:// or https:// address"),
    ("api:http://[::1#m", "is not a URL"),
    ("api:http://h:99999/v1#m", "is not a URL"),
    (f"api:http://u:{KEY}@h/v1#m", "holds a user, a password or a query"),
    (f"api:http://h/v1?key={KEY}#m", "holds a user, a password or a query"),
])
def test_addresses(uri, said):
    with pytest.raises(InputError, match=said) as error:
        api_uris.parse(uri, "config.judge.checkpoint")
    assert KEY not in str(error.value) and "config.judge.checkpoint" in str(error.value)


@pytest.mark.parametrize(("variable", "value", "said"), [
    (KEY, None, "expected the name of an environment variable"),
    ("JUDGE_KEY", None, "is not set, or empty"),
    ("JUDGE_KEY", " ", "is not set, or empty"),
    ("JUDGE_KEY", "a\nb", "no HTTP header may"),
])
def test_keys(monkeypatch, variable, value, said):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(InputError, match=f"config.judge.api_key_variable: .*{said}") as error:
        api_uris.read_key(variable, "config.judge.api_key_variable")
    assert KEY not in str(error.value)


def test_answers_from_before_the_work_folder_are_written_once_it_is_there(tmp_path):
    with serving(lambda body, headers, n: (200, {}, completion("Yes", LIKELY))) as (url, requests):
        section = dataclasses.replace(config_lib.Config().judge, checkpoint=f"api:{url}#m")
        config = dataclasses.replace(config_lib.Config(), judge=section)
        for times in range(2):
            found = endpoints.Endpoints(config, tmp_path / "run")
            found.check(config, ["policy", "judge"])
            assert len(written(tmp_path)) == times
            found.begin()
            assert len(written(tmp_path)) == 1 == len(requests)
    kept = json.loads(written(tmp_path)[0].read_text())
    assert kept["request"]["url"] == url and kept["answer"]["top"][0] == ["Yes", pytest.approx(math.log(0.6))]
