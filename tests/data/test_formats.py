"""Files of every format: equal rows give equal records, and what is wrong with a file is said with its place."""

import codecs
import csv
import datetime
import decimal
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ilf_jax
from ilf_jax import config as config_lib
from ilf_jax import setting_up
from ilf_jax.data import documents, sources, text_files
from ilf_jax.data.loading import load_examples
from ilf_jax.errors import InputError
from ilf_jax.records import Example

pytestmark = [pytest.mark.fast, pytest.mark.versions]

KINDS = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")


def write_as(kind, path, rows):
    """The rows, equal dicts of texts, in a file of a format, written by a library of its own."""
    table = pa.Table.from_pylist(rows)
    if kind in ("jsonl", "json"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_bytes(("\n".join(lines) if kind == "jsonl" else "[" + ",\n".join(lines) + "]").encode())
    elif kind in ("csv", "tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    return path


# Of what UTF-8 holds, without the zero byte: in a CSV file it says UTF-16.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(
    ['a,"b"\r\nc', "\r", "; \t", "\u2028x\x85", " =1+1 ", "NaN", "null", "[", "\ufeff"])


@settings(max_examples=12, deadline=None)
@given(st.lists(st.fixed_dictionaries({"post": TEXTS.map(lambda t: f"d{t}"), "said": TEXTS, "title": TEXTS}),
                min_size=1, max_size=5))
def test_equal_rows_give_equal_records(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    fields = {"document": "post", "feedback": "said"}
    found = {}
    for kind in KINDS:
        path = write_as(kind, folder / f"rows.{kind}", rows)
        found[kind] = load_examples(f"{kind}:{path}", fields).examples
        if kind in ("jsonl", "json", "csv", "tsv"):
            packed = path.with_name(f"{path.name}.gz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            found[f"{kind}.gz"] = load_examples(str(packed), fields).examples
    expected = load_examples(f"jsonl:{folder / 'rows.jsonl'}", fields).examples
    assert [(e.id, e.document, e.title) for e in expected] == [
        (f"row-{i:06d}", row["post"], row["title"]) for i, row in enumerate(rows, start=1)]
    assert set(found.values()) == {expected}


def parquet(folder, *arguments, **columns):
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns, *arguments), path)
    return f"parquet:{path}"


def test_columns_of_every_type(tmp_path):
    said = [{"short": "Say where.", "parts": [{"text": "one"}, {"text": "two"}]}, None]
    when = datetime.datetime(2026, 11, 28, 17, 30)
    source = parquet(
        tmp_path, id=pa.array([7, 8], pa.int64()), document=pa.array(["a", "b"]).dictionary_encode(),
        said=pa.array(said), day=[datetime.date(2026, 11, 28), None],
        at=pa.array([when, None], pa.timestamp("ns")), price=[decimal.Decimal("1.50"), None],
        raw=pa.array(["é".encode(), b""], pa.binary()),
        facts=pa.array([[("k", "v")], []], pa.map_(pa.string(), pa.string())))

    def read(**fields):
        return [e.title for e in load_examples(source, {"title": "", **fields}).examples]

    assert load_examples(source, {"feedback": "said.short"}).examples == (
        Example("7", "a", feedback="Say where."), Example("8", "b"))
    assert read(title="said.parts.1.text") == ["two", ""] and read(title="day") == ["2026-11-28", ""]
    assert read(title="at") == ["2026-11-28T17:30:00", ""] and read(title="price") == ["1.50", ""]
    assert read(title="raw") == ["é", ""]
    with pytest.raises(InputError, match=r"rows\.parquet row 2: the row lacks 'facts\.k', read as title"):
        read(title="facts.k")
    with pytest.raises(InputError, match=r"rows\.parquet row 1: field 'said' \(title\): the value is an object"):
        read(title="said")


def test_columns_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"rows\.parquet: 2 columns have the same name, 'document'"):
        pq.write_table(pa.table([["a"], ["b"]], ["document", "document"]), tmp_path / "rows.parquet")
        load_examples(str(tmp_path / "rows.parquet"), {})
    source = parquet(tmp_path, document=["a", "b"], t=pa.array([1, 2**62], pa.timestamp("ms")))
    with pytest.raises(InputError, match=r"rows\.parquet rows 1 to 2, column 't' \(timestamp\[ms\]\): cannot be read"):
        load_examples(source, {})
    with pytest.raises(InputError, match=r"row 2: id 'a' is already used by .*rows\.parquet row 1"):
        load_examples(parquet(tmp_path, document=["a", "b"], id=["a", "a"]), {})


def test_damaged_columns(tmp_path):
    path = write_as("parquet", tmp_path / "rows.parquet", [{"document": "a" * 50}] * 9)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-9], whole[:20] + bytes(60) + whole[80:], b"text\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"rows\.parquet"):
            load_examples(str(path), {})
    path = write_as("arrow", tmp_path / "rows.arrow", [{"document": "a" * 50}] * 9)
    for content in (b"", b"text\n", path.read_bytes()[:-90]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"rows\.arrow"):
            load_examples(str(path), {})


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.csv", b"document,draft\na,b\nc\n", r"a\.csv:3: has 1 cells, the headings are 2"),
    ("a.csv", b"document,draft\n\"a\nb\",c\n\nd,e,f\n", r"a\.csv:5: has 3 cells, the headings are 2"),
    ("a.csv", b"document,document\na,b\n", r"a\.csv:1: 2 columns have the same heading, 'document'"),
    ("a.csv", "document\ncafé\n".encode("cp1252"), r"a\.csv:2: is not UTF-8 \(byte 0xe9.*save the file as UTF-8"),
    ("a.csv", "document\na\n".encode("utf-16"), r"a\.csv:1: is UTF-16"),
    ("a.csv", b'document\n"a\nb\n', r"a\.csv:2: is not CSV: unexpected end of data"),
    ("a.csv", b'document\n"a"b\n', r"a\.csv:2: is not CSV"),
    ("a.csv", b"document\n" + b"a" * 4_000_001, r"a\.csv:2: is not CSV: field larger than field limit"),
    ("a.csv", b"text\na\n", r"a\.csv:2: the row lacks 'document'.*it has text"),
    ("a.csv", b"", r"the data set is empty"),
    ("a.csv", b"PK\x03\x04....", r"a\.csv: is a ZIP archive or an Excel workbook; save the sheet as CSV"),
    ("a.jsonl", b"PAR1....", r"a\.jsonl: is a Parquet file; name it parquet:FILE"),
    ("a.jsonl", b"\x28\xb5\x2f\xfd....", r"a\.jsonl: is compressed with Zstandard"),
    ("a.json", b'[{"document": "a"}] x', r"a\.json:1: is not valid JSON: there is more after the array's end: 'x'"),
    ("a.json", b'[{"document": "a"},\n\n{"document": }]', r"a\.json:3 \(row 2\): is not valid JSON"),
    ("a.json", b'[{"document": "a"}\n{"document": "b"}]', r"a\.json:2: .*a ',' or .* is missing after row 1"),
    ("a.json", b'[{"document": "a"},]', r"a\.json:1 \(row 2\): is not valid JSON"),
    ("a.json", b'[{"document": "a"}', r"a\.json:1: .*is missing after row 1"),
    ("a.json", b'[{"document": "a", "document": "b"}]', r"a\.json:1 \(row 1\): .*'document' appears twice"),
    ("a.json", b"[" * 100_000, r"a\.json:1 \(row 1\): is not valid JSON: nested too deeply"),
    ("a.json", b'[\n"\xe9"]', r"a\.json:2: is not UTF-8"),
    ("a.json", b"[1]", r"a\.json:1 \(row 1\): not a JSON object"),
    ("a.json", b"[ ]", "the data set is empty"),
    ("a.json", b'{\n"document": "a"}', r"a\.json:1: .*a \.json file is an array of objects, or has an object a line"),
])
def test_what_is_wrong_is_said_with_its_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_examples(str(path), {})


def test_tables_as_programs_write_them(tmp_path):
    european, old_mac = b'document;title\r\n"a;""b""\nc";t\r\n', b'document\ttitle\r"a;""b""\nc"\tt\r'
    for content in (codecs.BOM_UTF8 + european, old_mac):
        (tmp_path / "a.csv").write_bytes(content)
        assert load_examples(str(tmp_path / "a.csv"), {}).examples == (Example("row-000001", 'a;"b"\nc', title="t"),)
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b'{"document": "a"}\n{"document": "b"}\n')  # JSON Lines
    assert [e.document for e in load_examples(str(tmp_path / "a.json"), {}).examples] == ["a", "b"]


def test_bad_rows_of_a_table_may_be_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("document,draft\na,b\nc\nd,e\n")
    result = load_examples(str(path), {}, on_error="skip")
    assert ([e.id for e in result.examples], result.skipped) == (["row-000001", "row-000003"], 1)
    assert "a.csv:3" in result.first_error


def test_archives_that_are_damaged_or_larger_than_they_look(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl.gz"
    lines = b"".join(b'{"document": "%06d"}\n' % i for i in range(9999))
    path.write_bytes(gzip.compress(lines)[:-999])
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz: the gzip archive ends too early"):
        load_examples(str(path), {})
    path.write_bytes(gzip.compress(lines)[:-8] + bytes(8))
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz: the gzip archive is damaged"):
        load_examples(str(path), {})
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1 << 20)
    monkeypatch.setattr(text_files, "LARGEST_ARRAY", 1 << 20)
    path.write_bytes(gzip.compress(b'{"document": "' + bytes(8 << 20) + b'"}', 1))
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz:1: the line is longer than 1 MB"):
        load_examples(str(path), {})
    path.write_bytes(gzip.compress(b'[{"document": "' + b" " * (8 << 20) + b'"}]', 1))
    with pytest.raises(InputError, match=r"an array of more than 1 MB; write JSON Lines"):
        load_examples(f"json:{path}", {})


@pytest.mark.parametrize(("source", "message"), [
    ("reviews.xlsx", "a spreadsheet is not read; save the sheet as CSV. Allowed are jsonl:FILE"),
    ("reviews.zip", "an archive is not read; unpack it"), ("a/reviews.pkl", "pickled objects are not read"),
    ("owner/name", "did you mean hf:owner/name"), ("csv:", "allowed are jsonl:FILE"),
    ("gs:reviews.csv", "allowed are jsonl:FILE"),
])
def test_what_is_not_read(source, message):
    with pytest.raises(InputError, match=rf"config\.reward\.source: {source!r} given.*{message}"):
        sources.read_rows(source, "train", None, "config.reward")


def test_a_folder_is_a_data_set(tmp_path):
    with pytest.raises(InputError, match=rf"did you mean hf:{tmp_path}"):
        sources.read_rows(str(tmp_path), "train", None, "config.data")
    with pytest.raises(InputError, match=rf"cannot be read: it is a folder; hf:{tmp_path}"):
        sources.read_rows(f"csv:{tmp_path}", "train", None, "config.data")
    assert sources.file_of(f"csv:{tmp_path}") == str(tmp_path) == sources.file_of(f"hf:{tmp_path}")
    assert sources.file_of("tfds:x") is None and sources.file_of("gs://b/x.csv.gz") == "gs://b/x.csv.gz"


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_refuses_data_that_have_changed(tmp_path, kind):
    rows = [{"document": f"text {i}", "draft": "a draft"} for i in range(4)]
    c = ilf_jax.base_config()
    c.data.source, c.data.eval_size = str(write_as(kind, tmp_path / f"rows.{kind}", rows)), 1
    config = config_lib.read(c)

    def begin():
        setting_up.write_records(tmp_path / "examples.jsonl", documents.load_documents(config).by_iteration[1],
                                 "config.data")

    begin()
    begin()
    write_as(kind, tmp_path / f"rows.{kind}", [{**rows[0], "draft": "another"}, *rows[1:]])
    with pytest.raises(InputError, match=r"holds other documents than config\.data gives now; the data have changed"):
        begin()
