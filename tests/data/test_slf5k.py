"""SLF5K, offline, on made-up rows: prepared by tensorflow-datasets and read back in file order."""

import json
import os
import subprocess
import sys

import pytest

from ilf_jax.data import slf5k
from ilf_jax.data.loading import load_examples
from ilf_jax.errors import InputError

pytestmark = pytest.mark.fast


def row(number, **more):
    return {"id": f"t{number}", "title": f"Title {number}", "post": f"Post {number} – ü", "feedback": f"Say {number}",
            "generated_summary_for_feedback": f"Draft {number}", "ideal_human_summary": f"Ideal {number}",
            "tldr_human_reference_summary": None, "has_additional_feedback": number % 2 == 0, "extra": [1], **more}


@pytest.fixture(autouse=True)
def prepared_in(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("prepared")
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_rows_in_file_order(tmp_path):
    write(tmp_path / "train.jsonl", [row(n) for n in range(40)])
    (tmp_path / "slf5k_test.json").write_text(json.dumps([row(100), row(101)]))
    result = load_examples("tfds:slf5k", slf5k.FIELDS, folder=str(tmp_path), split="train")
    assert [e.id for e in result.examples] == [f"t{n}" for n in range(40)]
    third = result.examples[3]
    assert (third.document, third.title, third.draft, third.feedback, third.human_refinement) == (
        "Post 3 – ü", "Title 3", "Draft 3", "Say 3", "Ideal 3")
    tests = load_examples("tfds:slf5k", slf5k.FIELDS, folder=str(tmp_path), split="test")
    assert [e.id for e in tests.examples] == ["t100", "t101"]
    first = load_examples("tfds:slf5k", slf5k.FIELDS, folder=str(tmp_path), split="train[:5]")
    assert first.examples == result.examples[:5]


def test_all_fields_survive(tmp_path):
    write(tmp_path / "train.jsonl", [row(2)])
    (read,) = slf5k.open_split("train", str(tmp_path))
    assert set(read) == {*slf5k.TEXTS, slf5k.FLAG}
    assert (read["id"], read["tldr_human_reference_summary"], bool(read[slf5k.FLAG])) == (b"t2", b"", True)


def test_changed_files_are_prepared_anew(tmp_path, prepared_in):
    for text in ("one", "two", "one"):
        write(tmp_path / "train.jsonl", [row(1, post=text)])
        (example,) = load_examples("tfds:slf5k", slf5k.FIELDS, folder=str(tmp_path)).examples
        assert example.document == text
    assert len(list(prepared_in.iterdir())) == 2


def test_no_tensorflow_is_loaded(tmp_path):
    write(tmp_path / "train.jsonl", [row(1)])
    program = ("import sys\nfrom ilf_jax.data import slf5k\n"
               f"assert len(slf5k.open_split('train', {str(tmp_path)!r})) == 1\n"
               "assert not any(m == 'tensorflow' for m in sys.modules), 'tensorflow was imported'")
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ), cwd=os.getcwd())


def test_processes_may_prepare_at_once(tmp_path, monkeypatch):
    write(tmp_path / "train.jsonl", [row(n) for n in range(5)])
    prepare = slf5k.Slf5k.download_and_prepare

    def slower(self):
        prepare(self)  # the other process, which is done first
        raise FileExistsError("the folder is there")

    monkeypatch.setattr(slf5k.Slf5k, "download_and_prepare", slower)
    assert len(slf5k.open_split("train", str(tmp_path))) == 5
    monkeypatch.setattr(slf5k.Slf5k, "download_and_prepare", lambda self: (_ for _ in ()).throw(OSError("disk full")))
    write(tmp_path / "train.jsonl", [row(n) for n in range(6)])
    with pytest.raises(InputError, match=r"cannot be prepared under .*disk full .*TFDS_DATA_DIR"):
        slf5k.open_split("train", str(tmp_path))


@pytest.mark.parametrize(("content", "message"), [
    ("\n", r"train\.jsonl: the file has no rows"),
    ("{", r"train\.jsonl:1: the line is not valid JSON"),
    ('"x"', r"train\.jsonl:1: not a JSON object"),
    ('{"id": "a"}', r"train\.jsonl:1: field 'post' is missing"),
    ('{"id": "a", "post": "p", "feedback": ["f"]}', r"train\.jsonl:1: field 'feedback' is a list"),
])
def test_bad_rows(tmp_path, content, message):
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        load_examples("tfds:slf5k", slf5k.FIELDS, folder=str(tmp_path))


def test_which_file_is_a_split(tmp_path):
    with pytest.raises(InputError, match="is named like a split"):
        slf5k.find_files(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        slf5k.find_files(tmp_path / "no")
    write(tmp_path / "a_train.jsonl", [row(1)])
    write(tmp_path / "b_train.json", [row(1)])
    with pytest.raises(InputError, match=r"2 files for split 'train': a_train\.jsonl, b_train\.json"):
        slf5k.find_files(tmp_path)
    write(tmp_path / "train.jsonl", [row(1)])
    assert slf5k.find_files(tmp_path) == {"train": tmp_path / "train.jsonl"}
    with pytest.raises(InputError, match=r"split 'valid': not among the files; allowed are train"):
        slf5k.open_split("valid", str(tmp_path))


def test_no_hub_tells_of_the_folder(monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=r"cannot download JeremyAlain/SLF5K .*config\.data\.folder"):
        load_examples("tfds:slf5k", slf5k.FIELDS)


@pytest.mark.parametrize(("content", "message"), [
    ('{"id": "1", "post": "caf\u00e9"}'.encode("cp1252"), r"train\.jsonl:1: .*is not UTF-8 .*save the file as UTF-8"),
    ('{"id": "1", "post": "a"}'.encode("utf-16"), r"train\.jsonl:1: the line is UTF-16; save the file as UTF-8"),
    (b'{"id": "1", "post": ' + b"[" * 100_000, r"train\.jsonl:1: the line is not valid JSON: nested too deeply"),
    (b'{"id": "1", "post": "a", "post": "b"}', r"train\.jsonl:1: .*JSON: the key 'post' appears twice"),
])
def test_lines_of_other_kinds(content, message, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(slf5k._read_rows(path))


def test_numbers_that_are_not_finite_are_empty_texts():
    row = slf5k._features("here", {"id": "1", "post": "a", "feedback": float("nan"), "title": 3.5})
    assert (row["feedback"], row["title"]) == ("", "3.5")
