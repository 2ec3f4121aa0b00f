"""A trained policy writes for new documents what the evaluate and best_of_n stages write for them."""

import json
import subprocess
import sys

import pytest

import ilf_jax
from ilf_jax.errors import InputError
from ilf_jax.records import Example


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def held_out(folder, iteration, stage="evaluate"):
    """(Examples, the stage's records by id) of a finished run."""
    place = folder / f"iteration_{iteration:03d}"
    examples = [Example(**row) for row in rows(place / "evaluate/examples.jsonl")]
    return examples, {row["id"]: row for shard in (place / stage).glob("0*.jsonl") for row in rows(shard)}


@pytest.mark.parametrize("iteration", [0, 1, 2])
def test_generate_is_what_evaluation_wrote(tiny_run, iteration):
    examples, outputs = held_out(tiny_run[1], iteration)
    policy = ilf_jax.load(tiny_run[1], iteration)
    assert policy.generate(examples) == [[outputs[e.id]["text"]] for e in examples]


def test_texts_alone(tiny_run):
    policy = ilf_jax.load(tiny_run[1])
    assert policy.iteration == 2
    first = policy.generate(["Ada bakes.", "Bo swims."], n=3, temperature=1.5)
    assert [len(texts) for texts in first] == [3, 3] and len({*first[0], *first[1]}) > 3
    assert policy.generate(["Bo swims.", "Ada bakes."], n=3, temperature=1.5) == first[::-1]
    assert policy.generate(["Ada bakes."], n=3, temperature=1.5, seed=1) != first[:1]
    assert policy.generate("Ada bakes.", n=3, temperature=1.5) == first[:1]
    greedy = policy.generate(["Ada bakes."], n=2, temperature=0)
    assert greedy[0][0] == greedy[0][1]


def test_a_baseline(tiny_config, tmp_path):
    tiny_config.baselines = ("initial",)
    ilf_jax.run(tiny_config, tmp_path / "run")
    examples, outputs = held_out(tmp_path / "run/baselines/initial", 1)
    policy = ilf_jax.load(tmp_path / "run", baseline="initial")
    assert policy.generate(examples) == [[outputs[e.id]["text"]] for e in examples]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n": 0}, "n=0 and best_of=1; allowed are 1 to 256"), ({"best_of": 4}, "best_of needs a reward model"),
    ({"temperature": -1.0}, "config.evaluate.temperature: -1.0"), ({"max_new_tokens": 0}, "max_new_tokens: 0"),
])
def test_bad_arguments(tiny_run, arguments, message):
    with pytest.raises(InputError, match=message):
        ilf_jax.load(tiny_run[1]).generate(["Ada bakes."], **arguments)


@pytest.mark.fast
def test_what_is_not_there(tiny_run, tmp_path):
    with pytest.raises(InputError, match="not a work folder"):
        ilf_jax.load(tmp_path)
    with pytest.raises(InputError, match="iteration 7 has no finished checkpoint; those that have are 1, 2"):
        ilf_jax.load(tiny_run[1], 7)
    with pytest.raises(InputError, match="has no baseline 'x'; it has none"):
        ilf_jax.load(tiny_run[1], baseline="x")
    with pytest.raises(InputError, match="a document is a str"):
        ilf_jax.load(tiny_run[1]).generate([3])


def test_the_command(tiny_run):
    expected = [texts[0] for texts in ilf_jax.load(tiny_run[1]).generate(["Ada bakes.", "Bo swims."])]
    command = [sys.executable, "-m", "ilf_jax.cli", "generate", f"--workdir={tiny_run[1]}"]

    def call(*more, text=None):
        done = subprocess.run([*command, *more], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    lines = call("--file=-", "--json", text="Ada bakes.\n\nBo swims.\n")
    assert [json.loads(line) for line in lines] == [
        {"document": "Ada bakes.", "outputs": expected[:1]}, {"document": "Bo swims.", "outputs": expected[1:]}]
    assert call("Bo swims.") == expected[1:]
    wrong = subprocess.run([*command, "--interactive", "x"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "give documents in one way" in wrong.stderr
