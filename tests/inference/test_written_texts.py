"""What models have written and leaves no room in the next prompt stops the run, is left out, or is cut."""

import pytest

from ilf_jax.errors import TooLongError
from ilf_jax.inference.written_texts import WrittenTexts

pytestmark = pytest.mark.fast
LIMIT = 8


def encode(draft, feedback):
    words = [*draft.split(), *feedback.split()]
    if len(words) > LIMIT:
        raise TooLongError(f"{len(words)} words")
    return words


@pytest.mark.parametrize("policy", ["stop", "skip", "truncate"])
def test_what_fits_is_left_alone(policy):
    written = WrittenTexts("refine", policy)
    assert written.fit("a", ("one two", "three"), encode) == ["one", "two", "three"]
    assert written.metrics(["a"], str, lambda i: pytest.fail("encoded again")) == []


def test_stop_names_the_cure():
    with pytest.raises(TooLongError, match=r"9 words; .*--allow_change=data\.too_long"):
        WrittenTexts("refine", "stop").fit("a", ("w " * 8, "v"), encode)


def test_skip_leaves_out_and_counts(caplog):
    written = WrittenTexts("refine", "skip")
    assert written.fit("a", ("w " * 8, "v"), encode) is None
    assert written.fit("b", ("w", "v"), encode) == ["w", "v"]
    texts = {"a": ("", ""), "b": ("", ""), "c": ("w " * 20, "v")}  # an earlier process has worked on c
    (metric,) = written.metrics(texts, str, lambda i: written.fit(i, texts[i], encode))
    assert (metric.name, metric.value) == ("too_long", 2)
    assert "texts about 2 documents are too long and left out" in caplog.text and "first: 9 words" in caplog.text


def test_truncate_cuts_the_longest_by_no_more_than_it_takes():
    written = WrittenTexts("refine", "truncate")
    assert written.fit("a", ("one two three four five six seven", "first second"), encode) == [
        "one", "two", "three", "four", "five", "six", "first", "second"]
    both = written.fit("b", ("d " * 30, "f " * 20), encode)
    assert both is not None and len(both) <= LIMIT and both[0] == "d" and both[-1] == "f"
    assert written.metrics(["a", "b"], str, lambda i: None)[0].value == 2


def test_truncate_leaves_out_what_no_cut_makes_fit():
    def never(*texts):
        raise TooLongError("never")

    assert WrittenTexts("refine", "truncate").fit("a", ("d " * 30, "f"), never) is None
