import dataclasses
import json

import pytest

from ilf_jax import config as config_lib
from ilf_jax import config_sections
from ilf_jax.data import documents
from ilf_jax.errors import InputError

pytestmark = pytest.mark.fast


def make(tmp_path, rows, **data):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "document": f"text {i}"}) + "\n" for i in range(rows)))
    return dataclasses.replace(
        config_lib.Config(), iterations=2,
        data=dataclasses.replace(config_sections.Data(), source=f"jsonl:{path}", **data))


def ids(examples):
    return [e.id for e in examples]


def test_iterations_take_the_next_rows_and_the_last_rows_are_held_out(tmp_path):
    found = documents.load_documents(make(tmp_path, 12, train_size=3, eval_size=2))
    assert ids(found.by_iteration[1]) == ["0", "1", "2"]
    assert ids(found.by_iteration[2]) == ["3", "4", "5"]
    assert ids(found.held_out) == ["10", "11"]


def test_without_a_size_every_iteration_takes_all_but_the_held_out(tmp_path):
    found = documents.load_documents(make(tmp_path, 5, eval_size=2))
    assert ids(found.by_iteration[1]) == ids(found.by_iteration[2]) == ["0", "1", "2"]
    assert ids(found.held_out) == ["3", "4"]


@pytest.mark.parametrize(("rows", "data"), [
    (40, {"eval_size": 64}), (20, {"eval_size": 20}), (5, {"train_size": 2, "eval_size": 2})])
def test_too_few_rows(tmp_path, rows, data):
    with pytest.raises(InputError, match=rf"has {rows} usable documents, too few .*eval_size"):
        documents.load_documents(make(tmp_path, rows, **data))


def test_a_field_can_be_left_unread(tmp_path):
    fields = dataclasses.replace(config_sections.Fields(), title="")
    config = make(tmp_path, 3, eval_size=0, fields=fields)
    path = tmp_path / "data.jsonl"
    path.write_text('{"document": "a", "title": "not wanted"}\n')
    config = dataclasses.replace(config, iterations=1)
    assert documents.load_documents(config).by_iteration[1][0].title == ""
