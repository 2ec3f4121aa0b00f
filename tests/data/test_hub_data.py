"""Hugging Face data sets: in a folder, as `datasets` saves one, and on the hub, asked by the hub's own client."""

import gzip
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import zlib

import pytest

from ilf_jax.data import hub_data
from ilf_jax.data.loading import load_examples
from ilf_jax.errors import InputError

CASES = pathlib.Path(__file__).parents[1] / "cases"
FIRST, SECOND = '{"document": "a"}\n{"document": "b"}\n', '{"document": "c"}\n'


def laid_out(folder, *names, card=""):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"document": name}) + "\n")
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\nA data set.\n")
    return folder


def splits(folder, configuration=None):
    repository, _ = hub_data._open(str(folder))
    return hub_data.splits_of(repository, configuration)


# Each was compared with what `datasets` 5.2.0 makes of the same folder.
@pytest.mark.fast
@pytest.mark.parametrize(("names", "expected"), [
    (["train.jsonl", "test.jsonl", "notes.txt"], {"train": ["train.jsonl"], "test": ["test.jsonl"]}),
    (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test_sft-00000-of-00001.jsonl"],
     {"train": ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"],
      "test_sft": ["data/test_sft-00000-of-00001.jsonl"]}),
    (["one.jsonl", "two.jsonl", ".git/train.jsonl"], {"train": ["one.jsonl", "two.jsonl"]}),
    (["train/1.jsonl", "dev/1.jsonl"], {"train": ["train/1.jsonl"], "validation": ["dev/1.jsonl"]}),
    (["my_train_file.jsonl", "my-eval.jsonl", "other.jsonl"],
     {"train": ["my_train_file.jsonl"], "test": ["my-eval.jsonl"]}),
    (["contest.jsonl", "latest.jsonl"], {"train": ["contest.jsonl", "latest.jsonl"]}),
    (["train.jsonl", "testing/x.jsonl"], {"test": ["testing/x.jsonl"]}),
])
def test_splits_by_names(tmp_path, names, expected):
    assert splits(laid_out(tmp_path, *names)) == expected


@pytest.mark.fast
def test_splits_by_card(tmp_path):
    folder = laid_out(tmp_path, "x/a.jsonl", "x/train.jsonl", "y.jsonl", card="""configs:
- config_name: one
  data_dir: x
- config_name: two
  default: true
  data_files:
  - split: tiny
    path: x/*.jsonl
  - split: test
    path: [y.jsonl]""")
    assert splits(folder, "one") == {"train": ["x/train.jsonl"]}
    assert splits(folder) == {"tiny": ["x/a.jsonl", "x/train.jsonl"], "test": ["y.jsonl"]}
    examples = load_examples(f"hf:{folder}:two", {}, split="tiny").examples
    assert [(e.id, e.document) for e in examples] == [("row-000001", "x/a.jsonl"), ("row-000002", "x/train.jsonl")]
    with pytest.raises(InputError, match=r"config\.data\.source: hf:.*: has no split 'train'; there are tiny, test"):
        load_examples(f"hf:{folder}", {})
    with pytest.raises(InputError, match="has no configuration 'three'; there are one, two"):
        load_examples(f"hf:{folder}:three", {})


@pytest.mark.fast
@pytest.mark.parametrize(("names", "card", "message"), [
    (["x.py"], "", r"only a program that loads it \(x\.py\), which is not run.*refs/convert/parquet"),
    (["x.txt"], "license: mit", r"has no file of data; those that are read end in \.jsonl"),
    (["x.jsonl"], "configs:\n- config_name: a\n  data_files: y.jsonl", "names for the split 'train' are not there"),
    (["x.txt"], "configs:\n- config_name: a\n  data_files: x.txt", r"x\.txt is of a format that is not read"),
    (["x.jsonl"], "configs: [", r"README\.md: its header is not valid YAML"),
    (["x.jsonl", "y.jsonl"], "configs:\n- config_name: a\n  data_files: x.jsonl\n- config_name: b\n  data_files: "
     "y.jsonl", r"has several configurations; name one: hf:.*:a\. There are a, b"),
])
def test_what_is_wrong_with_a_data_set(tmp_path, names, card, message):
    with pytest.raises(InputError, match=message):
        load_examples(f"hf:{laid_out(tmp_path, *names, card=card)}", {})


@pytest.mark.fast
def test_errors_name_the_shard(tmp_path):
    (tmp_path / "train-00000-of-00002.jsonl").write_text(FIRST)
    (tmp_path / "train-00001-of-00002.jsonl.gz").write_bytes(gzip.compress(f"{SECOND}[]\n".encode()))
    with pytest.raises(InputError, match=r"train-00001-of-00002\.jsonl\.gz:2: not a JSON object"):
        load_examples(f"hf:{tmp_path}", {})
    result = load_examples(f"hf:{tmp_path}", {}, on_error="skip")
    assert [e.id for e in result.examples] == ["row-000001", "row-000002", "row-000003"]


@pytest.mark.fast
def test_a_folder_that_datasets_has_saved():
    source = f"hf:{CASES / 'saved_data_set'}"
    examples = load_examples(source, {"id": "n", "feedback": "f.x.0"}, split="test_prefs").examples
    assert [(e.id, e.document, e.feedback) for e in examples] == [("1", "d1", "a1"), ("2", "d2", "a2")]
    with pytest.raises(InputError, match="has no split 'test'; there are test_prefs, train, validation"):
        load_examples(source, {}, split="test")


@pytest.mark.fast
def test_no_such_data_set(tmp_path, monkeypatch):
    (tmp_path / "owner/notes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"the folder owner has no note; did you mean notes\?; the hub is not asked"):
        load_examples("hf:owner/note", {})
    with pytest.raises(InputError, match=r"hf:.*: there is no such folder, and it is no hub id"):
        load_examples(f"hf:{tmp_path / 'none'}", {})


FILES = {"README.md": b"---\nlicense: mit\n---\n", "data/train-00000-of-00002.jsonl": FIRST.encode(),
         "data/train-00001-of-00002.jsonl": SECOND.encode(), "data/test-00000-of-00001.jsonl": b"\xff\n"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers of one data set, OWNER/notes."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer(with_body=True)

    def do_HEAD(self):
        self.answer(with_body=False)

    def answer(self, with_body):
        start = f"/datasets/owner/notes/resolve/{COMMIT}/"
        if self.path.startswith("/api/datasets/owner/notes/tree/"):
            body = json.dumps([{"type": "file", "path": name, "size": len(content), "oid": f"{zlib.crc32(content):x}"}
                               for name, content in FILES.items()]).encode()
        elif self.path.startswith("/api/datasets/owner/notes"):
            body = json.dumps({"id": "owner/notes", "sha": COMMIT, "private": False,
                               "siblings": [{"rfilename": name} for name in FILES]}).encode()
        elif self.path.startswith(start) and self.path.removeprefix(start) in FILES:
            body = FILES[self.path.removeprefix(start)]
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{zlib.crc32(body):x}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)


_READ = """
import sys
from ilf_jax.data.loading import load_examples
from ilf_jax.errors import InputError
try:
    print([e.document for e in load_examples("hf:owner/notes", {}).examples])
except InputError as e:
    print(e)
"""


def test_the_hub_and_then_without_it(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                       "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}

        def read():
            done = subprocess.run([sys.executable, "-c", _READ], env=environment, capture_output=True, text=True,
                                  timeout=120, check=True)
            return done.stdout.strip()

        assert read() == "['a', 'b', 'c']"
        cached = {p.name for p in tmp_path.rglob("*.jsonl")}
        assert cached == {"train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"}  # of another split, nothing
        server.shutdown()
    assert read() == "['a', 'b', 'c']"
    next(tmp_path.rglob("train-00001*")).unlink()
    assert "did not give data/train-00000-of-00002.jsonl (IncompleteSnapshotError" in read()
    environment["HF_HOME"] = str(tmp_path / "empty")
    assert "the Hugging Face hub did not give the data set (" in read()
