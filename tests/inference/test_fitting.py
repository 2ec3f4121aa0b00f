"""Which rows are too long is found by their bytes, where these decide, and by their tokens where not."""

import dataclasses

import pytest

from ilf_jax.errors import InputError
from ilf_jax.inference import fitting
from ilf_jax.inference.fitting import Demand, Model
from ilf_jax.records import Example
from ilf_jax.tasks.summarize import Summarize
from ilf_jax.tokenizers import bpe_training, text_bounds
from ilf_jax.tokenizers.tokenizer import Tokenizer

TASK = Summarize()
REFINE = Demand("refine", "refiner", lambda e: [TASK.refine_prompt(e, e.draft, e.feedback)], room=10)


class Language:
    """As a LanguageModel, but counts the prompts that it has been given."""

    def __init__(self, tokenizer, limit):
        self.tokenizer, self.limit, self.asked = tokenizer, limit, []

    def encode(self, example_id, prompts, reserve, *, answered=False):
        self.asked.append(example_id)
        longest = max(len(self.tokenizer.encode(p.before + p.after)) for p in prompts)
        if longest + reserve > self.limit:
            raise fitting.TooLongError(f"{longest} tokens")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe_training.train_bpe([TASK.refine_prompt(example(0), "d", "f").text] * 3, 400, folder, "")
    return Tokenizer.load(f"hf:{folder}")


def example(number, draft="A draft.", feedback="Say more.", document="Once upon a time."):
    return Example(f"e{number}", document, draft=draft, feedback=feedback)


def model(tokenizer, context):
    lm = Language(tokenizer, context)
    return lm, {"refiner": Model(context, None, False, 0, lambda: 0, lambda: lm)}


@pytest.mark.fast
def test_no_tokenizer_is_loaded_where_bytes_decide():
    def loaded():
        raise AssertionError("loaded")

    models = {"refiner": Model(2000, None, False, 0, lambda: 0, loaded)}
    rows = [example(i, document="long " * 10_000) for i in range(1000)]  # a document may be cut
    prompts = []

    def counted(e):
        prompts.append(e)
        return REFINE.prompts(e)

    demand = dataclasses.replace(REFINE, prompts=counted)
    assert fitting.too_long([demand], models, rows, count_all=True) == ({}, 1000)
    assert len(prompts) == 1  # made of the longest texts
    rows[500] = example(500, draft="x" * 900)
    rows[501] = example(501, feedback="x" * 900)  # together they would be too long
    assert fitting.too_long([demand], models, rows, count_all=True) == ({}, 1000)
    assert len(prompts) == 1 + 1 + len(rows)


@pytest.mark.fast
def test_rows_that_bytes_do_not_decide_are_read_as_tokens(tokenizer):
    lm, models = model(tokenizer, 700)
    rows = [example(0), example(1, draft="Rewrite the summary " * 15), example(2, feedback="never seen: é " * 60)]
    found, looked_at = fitting.too_long([REFINE], models, rows, count_all=True)
    assert lm.asked == ["e2"] and looked_at == 3  # of the second one the tokens without the document decide
    assert list(found) == ["e2"] and found["e2"].startswith("refine: ")


@pytest.mark.fast
def test_to_stop_the_run_not_all_rows_are_read(tokenizer):
    _, models = model(tokenizer, 40)
    rows = [example(i) for i in range(5000)]
    found, looked_at = fitting.too_long([REFINE], models, rows, count_all=False)
    assert len(found) == looked_at == fitting._COUNTED + 1


@pytest.mark.fast
def test_as_little_as_need_be_is_cut(tokenizer):
    _, models = model(tokenizer, 250)
    row = example(0, feedback="the feedback asks for more words " * 40)
    cut = fitting.shortened([REFINE], models, row)
    assert row.feedback.startswith(cut.feedback) and 0 < len(cut.feedback) < len(row.feedback)
    assert (cut.draft, cut.document) == (row.draft, row.document)
    assert not cut.feedback.endswith(" ") and row.feedback[len(cut.feedback)] == " "
    assert REFINE.problem(models["refiner"], cut) is None
    words = row.feedback.split()
    longer = dataclasses.replace(row, feedback=" ".join(words[: len(cut.feedback.split()) + 2]))
    assert REFINE.problem(models["refiner"], longer) is not None


@pytest.mark.fast
def test_what_does_not_fit_even_when_cut(tokenizer):
    _, models = model(tokenizer, 20)
    with pytest.raises(InputError, match=r"not even config\.data\.too_long"):
        fitting.shortened([REFINE], models, example(0))


@pytest.mark.fast
@pytest.mark.parametrize(("limit", "expected"), [
    (0, ""), (3, "one"), (4, "one"), (6, "one"), (7, "one two"), (99, "one two"), (2, "on")])
def test_the_longest_beginning(limit, expected):
    assert fitting.longest_that(lambda text: len(text) <= limit, "one two") == expected


@pytest.mark.fast
@pytest.mark.parametrize("text", ["plain", "é日本", "\ufdfa" * 5, "\u1e9b\u0323", "\U0001f468\u200d\U0001f469"])
def test_bytes_bound_tokens(tokenizer, text):
    assert len(tokenizer.encode(text)) <= text_bounds.num_bytes(text)


@pytest.mark.fast
def test_thoughts_take_room_where_the_model_writes():
    writes, thinker = dataclasses.replace(REFINE, writes=True), Model(600, None, False, 500, lambda: 0, None)
    assert REFINE.fits_for_sure(thinker, example(0), len)
    assert not writes.fits_for_sure(thinker, example(0), len)
    assert writes.fits_for_sure(dataclasses.replace(thinker, thoughts=0), example(0), len)
