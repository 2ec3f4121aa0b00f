"""The formats of files that rows are read from: which there are, and how a file's name says which."""

import os
import pathlib
from collections.abc import Callable, Iterator

from ilf_jax.data import column_files, text_files
from ilf_jax.data.rows import Row
from ilf_jax.data.text_files import TextFile
from ilf_jax.errors import InputError, near_path

# Format, which is also the scheme of a URI -> (endings of names, reader).
_TEXT: dict[str, tuple[tuple[str, ...], Callable[[TextFile], Iterator[Row]]]] = {
    "jsonl": ((".jsonl", ".ndjson"), text_files.read_jsonl),
    "json": ((".json",), text_files.read_json),
    "csv": ((".csv",), text_files.read_csv),
    "tsv": ((".tsv",), lambda file: text_files.read_csv(file, "\t")),
}
_COLUMNS: dict[str, tuple[tuple[str, ...], Callable[[pathlib.Path, str], Iterator[Row]]]] = {
    "parquet": ((".parquet",), column_files.read_parquet),
    "arrow": ((".arrow",), column_files.read_arrow),
}
NAMES = (*_TEXT, *_COLUMNS)
ENDINGS = tuple(ending for endings, _ in (*_TEXT.values(), *_COLUMNS.values()) for ending in endings)


def of_name(name: str) -> str | None:
    """The format of a file by the ending of its name; None where it has none of them."""
    lower = name.lower()
    kinds: dict[str, tuple[str, ...]] = {
        **{kind: tuple(e + gz for e in endings for gz in ("", ".gz")) for kind, (endings, _) in _TEXT.items()},
        **{kind: endings for kind, (endings, _) in _COLUMNS.items()}}
    return next((kind for kind, endings in kinds.items() if lower.endswith(endings)), None)


def read(kind: str, path: pathlib.Path, name: str, encoding: str = "", remedy: str = "") -> Iterator[Row]:
    """The rows of a file.

    Args:
        kind: one of `NAMES`.
        path: where it is on this machine's disk.
        name: what messages call it.
        encoding, remedy: of a text, see `TextFile`.

    Raises:
        InputError: it is not there, cannot be read, or is damaged.
    """
    if not path.exists():
        near = near_path(path)
        hint = f"; did you mean {near}?" if near is not None else f" (looked from {os.getcwd()})"
        raise InputError(f"no file {path}{hint}")
    if path.is_dir():
        raise InputError(f"{name} cannot be read: it is a folder; hf:{name} reads one that holds a Hugging Face data "
                         "set")
    return _explained(kind, TextFile(path, name, encoding, remedy))


def _explained(kind: str, file: TextFile) -> Iterator[Row]:
    try:
        yield from _TEXT[kind][1](file) if kind in _TEXT else _COLUMNS[kind][1](file.path, file.name)
    except OSError as e:
        raise InputError(f"{file.name} cannot be read: {e.strerror or e}") from e
