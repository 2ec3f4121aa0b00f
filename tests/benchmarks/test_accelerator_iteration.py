"""The accelerator benchmark's iteration works on texts: each id of its tokenizer has one, and so has each target."""

import json

import pytest

from benchmarks import accelerator_iteration
from ilf_jax.models.architecture import SHAPES
from ilf_jax.tokenizers.tokenizer import Tokenizer


@pytest.mark.fast
@pytest.mark.parametrize("size", [98, 512, 32_000])
def test_each_id_of_the_tokenizer_has_a_text(tmp_path, size):
    tokenizer = Tokenizer.load(accelerator_iteration.write_tokenizer(tmp_path / "tokenizer", size))
    assert tokenizer.eos_id == 1
    texts = [tokenizer.decode([i]) for i in range(2, size)]
    assert all(texts) and len(set(texts)) == size - 2
    # What is sampled comes back as text, and as no more tokens: a target is as long as what it was picked from.
    ids = list(range(2, size, max(1, size // 50)))
    text = tokenizer.decode(ids)
    again = tokenizer.encode(text)
    assert tokenizer.decode(again) == text and len(again) <= len(ids)


@pytest.mark.parametrize("shape", accelerator_iteration.SHAPES)
def test_the_tokenizer_has_as_many_ids_as_the_model(tmp_path, shape):
    size = SHAPES[shape].vocab_size
    uri = accelerator_iteration.write_tokenizer(tmp_path / "tokenizer", size)
    assert Tokenizer.load(uri).vocab_size == size


def test_a_vocabulary_that_there_are_no_pieces_for(tmp_path):
    with pytest.raises(ValueError, match="at most 140706"):
        accelerator_iteration.write_tokenizer(tmp_path / "tokenizer", 140_707)


def metrics_file(folder, **values):
    path = folder / "metrics.jsonl"
    rows = [{"iteration": 1, "stage": "finetune", "metric": name, "value": value}
            for name, value in values.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.fast
def test_targets_are_counted(tmp_path):
    path = metrics_file(tmp_path, loss=5.0, examples=64.0, target_tokens=8000.0)
    assert accelerator_iteration.targets_of(path, 64, 128) == {"examples": 64, "target_tokens": 8000}


@pytest.mark.fast
@pytest.mark.parametrize(("examples", "tokens"), [(63.0, 8000.0), (64.0, 64.0), (64.0, 4095.0)])
def test_empty_and_short_targets_measure_nothing(tmp_path, examples, tokens):
    path = metrics_file(tmp_path, examples=examples, target_tokens=tokens)
    with pytest.raises(SystemExit, match="less than real work"):
        accelerator_iteration.targets_of(path, 64, 128)
