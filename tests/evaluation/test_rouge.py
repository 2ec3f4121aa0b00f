"""ROUGE against counts by hand."""

import pytest
from scipy import stats

from ilf_jax.evaluation.rouge import rouge

pytestmark = [pytest.mark.fast, pytest.mark.versions]


def test_by_hand():
    # 'a b c d' vs 'a c e': unigrams 2 of 4 and 2 of 3, F1 = 4/7; no common bigram; longest common subsequence 'a c'.
    one, two, longest = rouge(["a b c d"], ["a c e"], stem=False)
    assert (one.value, two.value, longest.value) == pytest.approx((4 / 7, 0.0, 4 / 7))
    # 'x y z' vs 'z x y': all unigrams, bigram 'x y' 1 of 2 on both sides, subsequence 'x y' 2 of 3.
    assert [m.value for m in rouge(["x y z"], ["z x y"], stem=False)] == pytest.approx([1.0, 0.5, 2 / 3])


def test_mean_over_pairs():
    metrics = rouge(["the cat", "", "red dog runs"], ["the cat", "the cat", "blue dog runs"])
    assert [m.name for m in metrics] == ["rouge_1", "rouge_2", "rouge_l"]
    assert metrics[0].value == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert metrics[0].stderr == pytest.approx(stats.sem([1, 0, 2 / 3]))
    assert metrics[0].n == 3


def test_stems():
    assert rouge(["dogs running"], ["dog runs"], stem=True)[0].value == 1.0
    assert rouge(["dogs running"], ["dog runs"], stem=False)[0].value == 0.0


@pytest.mark.parametrize(("outputs", "references", "message"), [
    ([], [], "no pairs"), (["a"], [], "1 outputs for 0 references"),
])
def test_errors(outputs, references, message):
    with pytest.raises(ValueError, match=message):
        rouge(outputs, references)
