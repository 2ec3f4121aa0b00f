"""No document is on both sides of the dev split."""

import dataclasses

import numpy as np
import pytest

from ilf_jax.training import dev_split, packing

EXAMPLE = packing.TrainingExample(np.arange(4, dtype=np.int32), np.ones(4, np.float32))


def make(documents):
    return [dataclasses.replace(EXAMPLE, tokens=EXAMPLE.tokens + i, document=document)
            for i, document in enumerate(documents)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("documents", [
    [f"d{i // 5}" for i in range(22 * 5)],  # five candidates a document
    [f"d{i % 22}" for i in range(22 * 5)],  # the same documents in five iterations
    [f"d{i}" for i in range(22)],
])
def test_documents_stay_together(documents, seed):
    train, dev = dev_split.split(make(documents), 0.3, seed)
    sides = [{e.document for e in side} for side in (train, dev)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(documents)
    assert len(sides[1]) == round(0.3 * 22)
    assert len(train) + len(dev) == len(documents)
    for side in (train, dev):
        first_tokens = [int(e.tokens[0]) for e in side]
        assert first_tokens == sorted(first_tokens)  # in their order


def test_seeds_differ_and_repeat():
    examples = make([f"d{i}" for i in range(22)])
    splits = [[e.document for e in dev_split.split(examples, 0.3, seed)[1]] for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_edges():
    train, dev = dev_split.split(make(["a", "b"]), 0.01, 0)
    assert len(train) == len(dev) == 1
    assert dev_split.split(make(["a", "b"]), 0.0, 0)[1] == []
    assert dev_split.split(make(["a", "a", "a"]), 0.5, 0)[1] == []  # never all
    train, dev = dev_split.split(make(["", "", "", ""]), 0.5, 0)  # nobody says what they are about
    assert len(train) == len(dev) == 2
