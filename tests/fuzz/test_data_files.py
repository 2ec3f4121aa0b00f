"""Damaged files of data in every format but plain JSON Lines, of which test_jsonl is: read, or refused in one line."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import Outcomes, damaged

from ilf_jax.data.loading import load_examples

ROWS = [{"document": f"Text {i}, é.", "title": 'a,"b"\nc', "said": {"parts": [f"a{i}", None], "n": i}, "t": [1.5, 2.0]}
        for i in range(7)]
FIELDS = {"feedback": "said.parts.0", "reference": "t.-1"}


def table():
    flat = [{**row, "said": json.dumps(row["said"]), "t": "1"} for row in ROWS]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(flat[0]))
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue().encode()


def columns(kind):
    content = pa.Table.from_pylist(ROWS)
    content = content.append_column("c", pa.array(["u", "v", "u", "v", "u", "v", None]).dictionary_encode())
    sink = pa.BufferOutputStream()
    if kind == "parquet":
        pq.write_table(content, sink)
    else:
        with pa.ipc.new_stream(sink, content.schema) as stream:
            stream.write_table(content)
    return sink.getvalue().to_pybytes()


FILES = {"json": json.dumps(ROWS, ensure_ascii=False, indent=1).encode(), "csv": table(),
         "jsonl.gz": gzip.compress("\n".join(map(json.dumps, ROWS)).encode()), "parquet": columns("parquet"),
         "arrow": columns("arrow")}



@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_damaged_files(tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / f"rows.{kind}"
    path.write_bytes(damaged(data, FILES[kind]))
    fields = FIELDS if kind != "csv" else {}
    with Outcomes().one():
        for example in load_examples(str(path), fields).examples:
            json.dumps(example.document).encode()
