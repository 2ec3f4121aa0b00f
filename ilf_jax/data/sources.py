"""Sources of rows by URI: files in several formats, Hugging Face and TensorFlow data sets, built-in ones."""

import difflib
import os
import re
from collections.abc import Iterator

from ilf_jax.data import formats
from ilf_jax.data.rows import Row
from ilf_jax.errors import InputError
from ilf_jax.runtime import storage

SCHEMES = (*formats.NAMES, "hf", "tfds", "builtin")
ALLOWED = ("jsonl:FILE (likewise json, csv, tsv, parquet, arrow), a FILE whose name ends in .jsonl, .json, .csv, .tsv "
           "(each also with .gz), .parquet or .arrow, hf:NAME, tfds:NAME, builtin:NAME")
# Endings of files that people have, too -> what to do with them.
_NOT_READ = {
    (".xlsx", ".xls", ".ods"): "a spreadsheet is not read; save the sheet as CSV",
    (".zip", ".tar", ".tgz", ".tar.gz", ".7z"): "an archive is not read; unpack it",
    (".bz2", ".xz", ".zst", ".lz4"): "this compression is not read; unpack it, or compress it with gzip",
    (".txt", ".md"): "a plain text is not read, it has no fields; write JSON Lines: {\"document\": ...}",
    (".pkl", ".pickle", ".pt", ".npy", ".npz"): "pickled objects are not read, they may run code; write JSON Lines or "
                                                "Parquet",
    (".feather", ".orc", ".avro", ".h5", ".sqlite", ".db"): "this format is not read; convert it to Parquet",
    (".xml", ".html", ".yaml", ".yml"): "this format is not read; write JSON Lines",
}


def read_rows(source: str, split: str, folder: str | None, section: str) -> Iterator[Row]:
    """The rows of a source.

    Args:
        source: `FORMAT:FILE`, or `FILE` alone where its name says the format (see `formats`); FILE may be in a bucket.
            `hf:NAME` (see `hub_data`), `tfds:NAME` or `builtin:NAME`.
        split: split of an hf, tfds or builtin source.
        folder: for tfds, the folder of the prepared data set; for tfds:slf5k, the folder of its JSONL files.
        section: config section that names the source, for messages: "config.data".

    Raises:
        InputError: the source cannot be read.
    """
    scheme, name = parsed(source, f"{section}.source")
    if scheme == "tfds":
        return _read_tfds(name, split, folder, section)
    if scheme == "builtin":
        return _read_builtin(name, split)
    try:
        if scheme == "hf":
            from ilf_jax.data import hub_data

            return hub_data.read(name, split)
        path = storage.fetched(name)
        return formats.read(scheme, path, name if "://" in name else str(path))
    except InputError as e:
        raise InputError(f"{section}.source: {e}") from e


def file_of(source: str) -> str | None:
    """The path or URI of the file, or of the folder, that a source reads; None where it reads none."""
    try:
        scheme, name = parsed(source, "")
    except InputError:
        return None
    return name if scheme in (*formats.NAMES, "hf") else None


def parsed(source: str, where: str) -> tuple[str, str]:
    """(Scheme, what it names) of a source. Raises InputError for what is none, guessing at what is meant.

    `where`: the config key that has it, for messages.
    """
    scheme, colon, name = source.partition(":")
    if colon and scheme in SCHEMES and name:
        return scheme, name
    hint = ""
    if not re.match(r"\w+:(?!//)", source):  # a path, or a URI such as gs://BUCKET/FILE
        kind = formats.of_name(source)
        if kind is not None:
            return kind, source
        for endings, what in _NOT_READ.items():
            if source.lower().endswith(endings):
                raise InputError(f"{where}: {source!r} given; {what}. Allowed are {ALLOWED}")
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source) or os.path.isdir(source):
            hint = f"; did you mean hf:{source}?"
    elif near := difflib.get_close_matches(scheme.lower(), SCHEMES, n=1):
        hint = f"; did you mean {near[0]}:{name or 'NAME'}?"
    raise InputError(f"{where}: {source!r} given{hint}; allowed are {ALLOWED}")


def _read_tfds(name: str, split: str, folder: str | None, section: str) -> Iterator[Row]:
    try:
        import tensorflow_datasets as tfds
    except ImportError as e:
        raise InputError(f"{section}.source: tfds:{name} needs the package tensorflow-datasets: {e}") from e
    if name == "slf5k":
        from ilf_jax.data import slf5k

        rows = slf5k.open_split(split, folder)
    else:
        try:
            place = None if folder is None else os.fspath(storage.path(folder))
            rows = tfds.data_source(name, split=split, data_dir=place)
        except Exception as e:  # third-party builders raise anything
            raise InputError(f"{section}.source: tfds:{name}, split {split!r}, folder {folder!r}, cannot be opened: "
                             f"{type(e).__name__}: {e}") from e
    for i in range(len(rows)):
        yield Row(f"tfds:{name}[{split}] row {i + 1}", i + 1, rows[i])


def _read_builtin(name: str, split: str) -> Iterator[Row]:
    from ilf_jax.data import builtin

    for number, example in enumerate(builtin.generate(name, split), start=1):
        yield Row(f"builtin:{name}[{split}] row {number}", number, example)
