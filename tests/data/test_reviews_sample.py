"""builtin:reviews_sample, by that name and as a file, and the base configuration, which reads it."""

import collections
import json
import pathlib

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax import preflight, tasks
from ilf_jax.data import documents as documents_lib
from ilf_jax.data import loading
from ilf_jax.errors import InputError

pytestmark = pytest.mark.fast

FILE = pathlib.Path(ilf_jax.__file__).parent / "assets" / "reviews_sample.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_sixty_rows_with_four_texts_each():
    assert len(ROWS) == 60
    for row in ROWS:
        assert list(row) == ["document", "draft", "feedback", "refinement"]
        assert all(text == text.strip() and "\n" not in text and text.isprintable() for text in row.values())
        assert len(row["document"].split()) in range(50, 101)
        assert max(len(row["draft"].split()), len(row["refinement"].split())) < 50
        assert len({*row.values()}) == 4
    for field in ROWS[0]:
        assert max(collections.Counter(row[field] for row in ROWS).values()) == 1


def test_refinements_keep_to_the_document_s_numbers():
    """A number in a refinement stands in its document, written alike: a cheap sign of an invented fact."""
    for row in ROWS:
        numbers = {word.strip(".,;:") for word in row["refinement"].split() if word[0].isdigit()}
        assert all(number in row["document"] for number in numbers), (numbers, row["document"])


def test_by_name_and_as_a_file_it_is_the_same():
    named = loading.load_examples("builtin:reviews_sample", {}).examples
    from_file = loading.load_examples(f"jsonl:{FILE}", {"human_refinement": "refinement"}).examples

    def texts(examples):
        return [(e.document, e.draft, e.feedback, e.human_refinement) for e in examples]

    assert texts(named) == texts(from_file)
    assert named[0].id == "review-01" and len(loading.load_examples("builtin:reviews_sample:7", {}).examples) == 7


def test_it_has_one_split():
    with pytest.raises(InputError, match=r"only the split train.*last rows are held out"):
        loading.load_examples("builtin:reviews_sample", {}, split="test")


def test_the_base_configuration_does_not_contradict_itself():
    c = ilf_jax.base_config()
    c.policy.checkpoint = "init:tiny"  # its own is a package that need not be installed
    config = config_lib.read(c)
    task = tasks.make_task(config)
    preflight.check_sources(config, task)
    documents = documents_lib.load_documents(config)
    preflight.check_documents(config, task, documents)
    assert (len(documents.by_iteration[1]), len(documents.held_out), documents.leaked) == (44, 16, 0)
