"""Which files of data a cell's digests cover: those of every format, and folders."""

import pytest

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax.sweeps import data_digests

pytestmark = pytest.mark.fast


def digests(source, eval_source=None):
    c = ilf_jax.base_config()
    c.data.source, c.data.eval_source = source, eval_source
    return data_digests.of(config_lib.read(c))


def test_files_and_folders(tmp_path):
    table, folder = tmp_path / "rows.csv", tmp_path / "notes"
    (folder / "train").mkdir(parents=True)
    (folder / "train/1.jsonl").write_text("{}\n")
    table.write_text("document\na\n")
    before = digests(str(table), f"hf:{folder}")
    assert set(before) == {"data.source", "data.eval_source"}
    assert digests(f"csv:{table}") == {"data.source": before["data.source"]}
    (folder / "train/2.jsonl").write_text("{}\n")
    after = digests(str(table), f"hf:{folder}")
    assert after["data.source"] == before["data.source"] and after["data.eval_source"] != before["data.eval_source"]
    table.write_text("document\nb\n")
    assert digests(str(table))["data.source"] != before["data.source"]


def test_what_has_none(tmp_path):
    for source in ("builtin:word_removal", "hf:owner/name", "gs://bucket/rows.csv", f"csv:{tmp_path}/none.csv"):
        assert digests(source) == {}
