"""Rows of Parquet and Arrow files, a few hundred at a time."""

import collections
import pathlib
from collections.abc import Iterator
from typing import Any

from ilf_jax.data.rows import Row
from ilf_jax.errors import InputError, shown

_ROWS = 256
"""In memory at once: data sets may have images beside their texts."""


def read_parquet(path: pathlib.Path, name: str) -> Iterator[Row]:
    """The rows of a Parquet file: structs as objects, lists as lists, categories as their values.

    Args:
        path: where it is.
        name: what messages call it.

    Raises:
        InputError: it is no Parquet file or is damaged, or a value cannot be read; the row and column are named.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _rows(name, file.schema_arrow, file.iter_batches(_ROWS))
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as e:  # a name of a column may not be UTF-8
        raise InputError(f"{name}: cannot be read as Parquet: {_first_line(e)}") from e


def read_arrow(path: pathlib.Path, name: str) -> Iterator[Row]:
    """The rows of an Arrow file, or stream, as `datasets.save_to_disk` writes it. As `read_parquet`."""
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            if is_file:
                with pyarrow.ipc.open_file(source) as file:
                    yield from _rows(name, file.schema, map(file.get_batch, range(file.num_record_batches)))
            else:
                with pyarrow.ipc.open_stream(source) as stream:
                    yield from _rows(name, stream.schema, stream)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as e:
        raise InputError(f"{name}: cannot be read as Arrow: {_first_line(e)}") from e


def _rows(name: str, schema: Any, batches: Iterator[Any]) -> Iterator[Row]:
    for column, count in collections.Counter(schema.names).items():
        if count > 1:
            raise InputError(f"{name}: {count} columns have the same name, {shown(column)}")
    number = 0
    for whole in batches:
        whole.validate(full=True)  # of a damaged file, offsets may lead out of memory
        for start in range(0, whole.num_rows, _ROWS):
            batch = whole.slice(start, _ROWS)
            columns = [_values(name, column, number + 1, array)
                       for column, array in zip(schema.names, batch.columns, strict=True)]
            for values in zip(*columns, strict=True):
                number += 1
                yield Row(f"{name} row {number}", number, dict(zip(schema.names, values, strict=True)))


def _values(name: str, column: str, first: int, array: Any) -> list[Any]:
    import pyarrow

    # Nanoseconds, which pandas writes, are more than Python's datetime can hold.
    if pyarrow.types.is_timestamp(array.type) and array.type.unit == "ns":
        array = array.cast(pyarrow.timestamp("us", array.type.tz), safe=False)
    try:
        values: list[Any] = array.to_pylist(maps_as_pydicts="strict")
        return values
    except (pyarrow.ArrowException, ValueError, KeyError, OverflowError) as e:
        raise InputError(f"{name} rows {first} to {first + len(array) - 1}, column {shown(column)} ({array.type}): "
                         f"cannot be read: {_first_line(e)}") from e


def _first_line(error: Exception) -> str:
    line = f"{str(error).strip()}\n".splitlines()[0][:200]
    return "".join(c if c.isprintable() else "\ufffd" for c in line)  # a library may quote the file's bytes
