"""SLF5K (Scheurer et al. 2023, Hugging Face `JeremyAlain/SLF5K`, Apache-2.0) as a tensorflow-datasets builder.

Needs no TensorFlow. Reads the dataset's files from a folder, or downloads them from the hub. Prepares them once, as
ArrayRecord, under $TFDS_DATA_DIR (default: ~/tensorflow_datasets), in a folder named by a hash of their contents.
Changed files are therefore prepared again.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ilf_jax.data import formats
from ilf_jax.data.field_paths import to_text
from ilf_jax.errors import InputError
from ilf_jax.runtime import storage

HUB_ID = "JeremyAlain/SLF5K"
SPLITS = ("train", "development", "validation", "test")
REQUIRED = ("id", "post")
TEXTS = (
    "id", "subreddit", "title", "post", "tldr_human_reference_summary", "summary_prompt",
    "generated_summary_for_feedback", "feedback", "ideal_human_summary", "feedback_class",
    "generated_summary_for_comparison_A", "generated_summary_for_comparison_B", "comparison_preference",
)
FLAG = "has_additional_feedback"

# config.data.fields for ILF as in the paper. `ideal_human_summary` is the one that the annotators wrote.
FIELDS = {
    "document": "post",
    "title": "title",
    "draft": "generated_summary_for_feedback",
    "feedback": "feedback",
    "reference": "tldr_human_reference_summary",
    "human_refinement": "ideal_human_summary",
}


class Slf5k(tfds.core.GeneratorBasedBuilder):
    """Builder over the files that `find_files` returns. Rows keep the order of the files."""

    VERSION = tfds.core.Version("1.0.0")
    # tensorflow-datasets looks for download checksums here; this builder downloads nothing. Without this line version
    # 4.9.10 imports importlib_resources, which it does not require on Python 3.9 and later.
    code_path = None
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The files of the hub, with empty texts for nulls."}

    def __init__(self, *, files: Mapping[str, pathlib.Path] | None = None, **kwargs: Any) -> None:
        self._files = dict(files or {})
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: tfds.features.Text() for name in TEXTS}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Summaries of Reddit posts with human language feedback.",
            homepage=f"https://huggingface.co/datasets/{HUB_ID}",
            features=tfds.features.FeaturesDict({**features, FLAG: tfds.features.Scalar(dtype=np.bool_)}),
            disable_shuffling=True,  # the paper's subsets of 100 and 1K are the first rows
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(path) for split, path in self._files.items()}

    def _generate_examples(self, path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
        number = -1
        for number, (where, row) in enumerate(_read_rows(path)):
            yield number, _features(where, row)
        if number < 0:
            raise InputError(f"{path}: the file has no rows; remove it or add rows")


def open_split(split: str, folder: str | None = None, data_dir: str | None = None) -> Sequence[dict[str, Any]]:
    """Rows of a split in file order, texts as bytes.

    Args:
        split: one of SPLITS, or a tensorflow-datasets slice such as "train[:100]".
        folder: folder of the dataset's .json or .jsonl files; None downloads them.
        data_dir: folder for the prepared records; None: $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
        InputError: no files in the folder, no such split, a bad row, or the hub cannot be reached.
    """
    files = find_files(storage.fetched(folder) if folder is not None else _download())
    if split.partition("[")[0] not in files:
        raise InputError(f"SLF5K split {split!r}: not among the files; allowed are {', '.join(files)}")
    root = storage.local(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    builder = _prepare(files, root)
    try:
        return builder.as_data_source(split)
    except ValueError as e:  # the slice does not parse, or the split has no rows
        raise InputError(f"SLF5K split {split!r}: {e}") from e


def find_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The file of each split: SPLIT.jsonl or SPLIT.json, else the only such file whose name contains the split's name.

    Raises InputError if the folder is missing or has no split, or if two files match one split.
    """
    if not folder.is_dir():
        raise InputError(f"SLF5K: no folder {folder}; set config.data.folder to the one that has train.jsonl")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".json", ".jsonl") and p.is_file())
    files: dict[str, pathlib.Path] = {}
    for split in SPLITS:
        partial = [p for p in paths if split in p.stem.lower()]
        matches = [p for p in partial if p.stem.lower() == split] or partial
        if len(matches) > 1:
            raise InputError(f"SLF5K: {folder} has {len(matches)} files for split {split!r}: "
                             f"{', '.join(str(p.relative_to(folder)) for p in matches)}; keep one")
        if matches:
            files[split] = matches[0]
    if not files:
        raise InputError(f"SLF5K: no file in {folder} is named like a split; expected are "
                         f"{', '.join(f'{split}.jsonl' for split in SPLITS)}")
    return files


def _prepare(files: Mapping[str, pathlib.Path], root: pathlib.Path) -> Slf5k:
    data_dir = root / f"slf5k_{_digest(files)}"
    try:
        builder = Slf5k(files=files, data_dir=data_dir)
        builder.download_and_prepare()
        return builder
    except OSError as e:
        # Another process of the run may have prepared the same contents first.
        builder = Slf5k(files=files, data_dir=data_dir)
        if builder.is_prepared():
            return builder
        raise InputError(f"SLF5K cannot be prepared under {root}: {e} (set TFDS_DATA_DIR to another folder)") from e


def _download() -> pathlib.Path:
    import huggingface_hub  # slow to import

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(
            HUB_ID, repo_type="dataset", allow_patterns=["*.json", "*.jsonl"]))
    except Exception as e:  # the hub client documents no common base class for its errors
        raise InputError(
            f"SLF5K: cannot download {HUB_ID} from the Hugging Face hub ({type(e).__name__}); download "
            f"https://huggingface.co/datasets/{HUB_ID} elsewhere and set config.data.folder to the folder of its "
            ".jsonl files"
        ) from e


def _digest(files: Mapping[str, pathlib.Path]) -> str:
    digest = hashlib.sha256()
    for split, path in files.items():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{split} {content}\n".encode())
    return digest.hexdigest()[:16]


def _read_rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of a JSON Lines file, or of a JSON array."""
    for row in formats.read("json", path, str(path)):
        if isinstance(row.value, InputError):
            raise row.value
        yield row.where, row.value


def _features(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object with the fields of SLF5K")
    for name in REQUIRED:
        if row.get(name) in (None, ""):
            raise InputError(f"{where}: field {name!r} is missing or empty; SLF5K rows have {', '.join(REQUIRED)}")
    for name in TEXTS:
        if not isinstance(row.get(name), str | int | float | None) or isinstance(row.get(name), bool):
            raise InputError(f"{where}: field {name!r} is a {type(row[name]).__name__}; allowed are text and numbers")
    texts = {name: to_text(f"{where}: field {name!r}", row.get(name)) for name in TEXTS}
    return {**texts, FLAG: row.get(FLAG) in (True, 1, "true", "True", "yes", "Yes")}
