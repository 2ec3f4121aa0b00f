"""What a stage's manifest.json may hold: read, checked and refused here, whoever wrote it."""

import re
import sys
from collections.abc import Iterator
from typing import Any

from ilf_jax import records
from ilf_jax.errors import InputError, shown
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_sealed

DIGESTS = "digests"
"""Key of the list of the shards' digests."""
STEPS_DIGEST = "steps_digest"
"""Key of the digest of steps.jsonl, once the training is complete."""
MORE_VALUES = "values.jsonl"
"""File beside the shards of evaluate: what is measured of each document once all outputs are written."""
_CURE = "restore it, or delete the stage's folder and what comes after it to run the stage again"
_METRIC = {"iteration": int, "stage": str, "metric": str}


def read(path: storage.Path) -> dict[str, Any]:
    """A manifest whose `complete`, `shards`, `count`, `digests`, `metrics`, `cost` and `finished` are what they say.

    Other keys are facts of the stage.

    Raises:
        InputError: it is damaged, or something in it is not.
    """
    manifest = read_sealed(path, _CURE)
    problem = _problem(manifest)
    if problem:
        raise InputError(f"{path}: {problem}; {_CURE}")
    return manifest


def is_finite(value: Any) -> bool:
    """Whether it is a number that a float can hold: not NaN, infinity, true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -sys.float_info.max <= value <= (
        sys.float_info.max)


def _problem(manifest: dict[str, Any]) -> str | None:
    """The first thing that is not as it should be."""
    complete = manifest.get("complete")
    if not isinstance(complete, bool):
        return f"complete is {shown(complete)}, not true or false"
    for key in ("shards", "count"):
        if (complete or key in manifest) and not _is_count(manifest.get(key)):
            return f"{key} is {shown(manifest.get(key))}, not a count"
    digests = manifest.get(DIGESTS, [])
    if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests) or (
            digests and len(digests) != manifest.get("shards")):
        return f"{DIGESTS} is {shown(digests)}, not one text for each shard"
    cost = manifest.get("cost", {})
    if not isinstance(cost, dict) or not all(is_finite(value) for value in cost.values()):
        return f"cost is {shown(cost)}, not finite numbers by name"
    if not is_finite(manifest.get("finished", 0)):
        return f"finished is {shown(manifest['finished'])}, not a time"
    metrics = manifest.get("metrics", [])
    if not isinstance(metrics, list) or not all(_is_metric(row) for row in metrics):
        return f"metrics is {shown(metrics)}, not a list of metrics with finite values"
    if not isinstance(manifest.get(STEPS_DIGEST, ""), str):
        return f"{STEPS_DIGEST} is {shown(manifest[STEPS_DIGEST])}, not a text"
    if not isinstance(manifest.get("records_in", ""), str):
        return f"records_in is {shown(manifest['records_in'])}, not a folder"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


def _is_metric(row: Any) -> bool:
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in _METRIC.items()):
        return False
    return all(row.get(key) is None or is_finite(row[key]) for key in ("value", "stderr", "n"))


def of_stages(path: storage.Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(Iteration, stage, manifest) of all stages in a work folder, oldest first."""
    order = {name: i for i, name in enumerate(records.OF_STAGES)}
    for folder in (p for p in storage.inside(path) if re.fullmatch(r"iteration_\d+", p.name)):
        for stage in sorted(storage.inside(folder), key=lambda p: order.get(p.name, 99)):
            manifest = stage / "manifest.json"
            if manifest.exists():
                yield int(folder.name.removeprefix("iteration_")), stage.name, read(manifest)
