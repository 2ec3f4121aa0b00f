"""Whole runs: no document is both trained on and held back, whatever makes several examples of it."""

import json

import pytest

import ilf_jax
from ilf_jax.training import dev_split

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def splits(monkeypatch):
    """(Training examples, dev examples) of each training."""
    splits, original = [], dev_split.split

    def split(*args):
        splits.append(original(*args))
        return splits[-1]

    monkeypatch.setattr(dev_split, "split", split)
    return splits


def assert_apart(split, documents, examples):
    train, dev = ({e.document for e in side} for side in split)
    assert dev and not train & dev and train | dev == documents
    assert sum(map(len, split)) == examples


def documents_of(folder):
    return [json.loads(line)["document"] for path in sorted(folder.glob("iteration_*/examples.jsonl"))
            for line in path.read_text().splitlines()]


def test_weighted_candidates(tiny_config, tmp_path, splits):
    c = tiny_config
    c.finetune.objective, c.finetune.dev_fraction, c.refine.num_candidates = "weighted", 0.3, 5
    ilf_jax.run(c, tmp_path / "run")
    documents = documents_of(tmp_path / "run")
    assert len(splits) == 1 and len(documents) == 6
    assert_apart(splits[0], set(documents), len((tmp_path / "run/iteration_001/finetune/00000-of-00001.jsonl")
                                                .read_text().splitlines()))
    assert sum(map(len, splits[0])) > 2 * 6  # several of each


def test_cumulative_data_in_which_documents_come_again(tiny_config, tmp_path, splits):
    """Other ids, the same texts."""
    lines = [{"id": str(i), "document": f"Ada the number {i % 5}", "reference": f"Ada is a gem {i}."}
             for i in range(14)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    c = tiny_config
    c.data.source, c.data.eval_source, c.data.train_size, c.iterations = f"jsonl:{tmp_path / 'data.jsonl'}", None, 5, 2
    c.finetune.target, c.finetune.dev_fraction, c.finetune.data = "reference", 0.3, "cumulative"
    ilf_jax.run(c, tmp_path / "run")
    documents = set(documents_of(tmp_path / "run"))
    assert len(documents) == 5 and len(splits) == 2
    assert_apart(splits[0], documents, 5)
    assert_apart(splits[1], documents, 10)


@pytest.mark.parametrize("kind", ["classification", "scalar"])
def test_comparisons_of_one_document(tiny_config, tmp_path, splits, kind):
    """Two examples a comparison, three comparisons a document."""
    from test_reward import with_reward

    pairs = [{"document": f"word {i % 4}", "first": f"good {i}", "second": f"bad {i}", "preferred": "first"}
             for i in range(14)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    c = with_reward(tiny_config, kind)
    c.iterations, c.data.eval_size, c.evaluate.best_of_n = 0, 0, 1
    c.reward.source, c.reward.eval_source, c.reward.eval_size = f"jsonl:{tmp_path / 'pairs.jsonl'}", None, 2
    c.reward.dev_fraction = 0.25
    ilf_jax.run(c, tmp_path / "run")
    assert len(splits) == 1
    assert_apart(splits[0], {f"word {i}" for i in range(4)}, 24 if kind == "classification" else 12)
