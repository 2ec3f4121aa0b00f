"""Equal candidates, counted by hand."""

import pytest
from scipy import stats

from ilf_jax.evaluation.diversity import diversity

pytestmark = pytest.mark.fast


def test_by_hand():
    documents, equal, words = diversity([["a b", "a b", "c"], ["d", "e f g"], ["x", "x"]])
    assert documents.value == pytest.approx(2 / 3)
    assert equal.value == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert equal.stderr == pytest.approx(stats.sem([2 / 3, 0, 1]))
    assert words.value == pytest.approx((5 / 3 + 2 + 1) / 3)
    assert [m.n for m in (documents, equal, words)] == [3, 3, 3]
    assert [m.name for m in (documents, equal, words)] == [
        "documents_with_equal_candidates", "equal_candidates", "candidate_words"]


@pytest.mark.parametrize(("candidates", "message"), [
    ([], "no documents"), ([["a"], []], "document 1 of 2"), (["text"], "document 0 of 1"),
])
def test_errors(candidates, message):
    with pytest.raises(ValueError, match=message):
        diversity(candidates)
