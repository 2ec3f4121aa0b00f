"""Two configurations of one work folder: what differs, and which of it may change before the stage that needs it."""

import dataclasses
import difflib
import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.runtime import storage
from ilf_jax.runtime.files import read_json_lines, read_sealed, write_lines

MAY_GROW = frozenset({"iterations"})
"""More iterations continue a run; anything else would mix two runs."""
AUTO = {"precision": "auto", "layers": "auto"}
"""Values that stand for what was decided when the folder was begun, and are equal to it."""
CHANGES = "changes.jsonl"
"""What was changed in a folder: key, from, to, when (unix time), a line each."""

# Section, or key -> the stages that read it; the longest entry that fits a key counts. Other sections reach all stages.
_READ_BY: dict[str, tuple[str, ...]] = {
    "draft": ("draft",),
    "feedback": ("feedback",),
    "feedback.source": ("draft", "feedback"),  # with draft.source='auto', recorded feedback is about recorded drafts
    "feedback.min_reviewed": (),  # asked only while the stage waits
    "review": (),
    "critic": ("feedback",),
    "refine": ("refine",),
    "refiner": ("refine",),
    "score": ("score",),
    "embedder": ("score",),
    "judge": ("score", "evaluate", "rank"),
    "finetune": ("finetune",),
    "reward": ("reward", "score", "best_of_n"),
    "reward_model": ("reward", "score", "best_of_n"),
    "evaluate": ("evaluate", "best_of_n", "rank"),
    "evaluate.target_nll": ("finetune",),
    "evaluate.best_of_n": ("best_of_n", "rank"),
    "evaluate.rank": ("rank",),
    "evaluate.headline": (),
    "baselines": ("rank",),  # each has a folder of its own, whose configuration is compared, too
    "checkpoint": (),
    "storage": (),
    "api": (),
    "api.samples": ("score", "evaluate", "rank"),
    "tracking": (),
    "data.too_long": ("finetune",),  # where no row was too long before the run, only what models write can be
}
# They concern what one iteration is about to train, so they may change between iterations.
_OF_ONE_ITERATION = ("data.too_long", "finetune.max_length")
SECTIONS = tuple(name for name in _READ_BY if "." not in name)
"""What --allow_change may name, or a key in it."""
# Files of a stage's folder that are there before it has done anything.
_BEFORE_WORK = ("manifest.json", "examples.jsonl", "comparisons.jsonl")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A key with two values. Its name is dotted, without `config.`; of a key that one side lacks, the value is None."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"config.{self.key}: {self.old!r} -> {self.new!r}"

    @property
    def setting(self) -> str:
        """The key that it is about: of the digest of a user's code, the key that chose the code."""
        return self.key.removeprefix("source_hashes.").partition("=")[0]

    @property
    def read_by(self) -> tuple[str, ...] | None:
        """The stages that read the key; None where all may."""
        parts = self.setting.split(".")
        names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((_READ_BY[name] for name in names if name in _READ_BY), None)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[Difference]:
    """All keys whose values differ, except for more iterations, and `AUTO` for whatever it became."""
    changes = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if b is not None and AUTO.get(prefix + key) == b:
            continue
        if isinstance(a, Mapping | None) and isinstance(b, Mapping | None):  # an older folder lacks a section
            changes += differences(a or {}, b or {}, f"{prefix}{key}.")
        elif a != b and not (prefix + key in MAY_GROW and isinstance(a, int) and isinstance(b, int) and b > a):
            changes.append(Difference(prefix + key, a, b))
    return changes


def check_names(allowed: Collection[str], keys: Collection[str]) -> None:
    """Raises InputError for the first entry of --allow_change that is no section, or key, that may change.

    Args:
        keys: all keys that there are.
    """
    changeable = {*_READ_BY, *(key for key in keys if key.partition(".")[0] in SECTIONS)}
    for name in allowed:
        if name.removeprefix("config.") not in changeable:
            near = difflib.get_close_matches(name, sorted(changeable), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            further = ", ".join(key for key in _READ_BY if key.partition(".")[0] not in SECTIONS)
            raise InputError(f"--allow_change={name}: allowed are {', '.join(SECTIONS)}, keys in them, and {further}"
                             f"{hint}")


def begun(folder: storage.Path, *, under_way: bool = False) -> dict[str, int]:
    """Stage -> the first iteration in which it has written something, or is complete.

    Args:
        folder: a work folder.
        under_way: leave out where it is complete.
    """
    found: dict[str, int] = {}
    for iteration in sorted(p for p in folder.iterdir() if re.fullmatch(r"iteration_\d+", p.name)):
        for stage in iteration.iterdir():
            if (stage / "manifest.json").exists() and _has_worked(stage) and not (under_way and _is_complete(stage)):
                found.setdefault(stage.name, int(iteration.name.removeprefix("iteration_")))
    return found


def _has_worked(stage: storage.Path) -> bool:
    if any(p.name not in _BEFORE_WORK and not p.name.startswith(".") for p in stage.iterdir()):
        return True
    return _is_complete(stage)


def _is_complete(stage: storage.Path) -> bool:
    return bool(read_sealed(stage / "manifest.json").get("complete"))


def check(folder: storage.Path, changes: Sequence[Difference], allowed: Collection[str]) -> None:
    """Raises InputError unless each change is allowed, and no stage that reads it has begun.

    Args:
        folder: a work folder.
        changes: between its configuration and the one given now.
        allowed: sections or keys, see --allow_change.
    """
    if not changes:
        return
    names = {name.removeprefix("config.") for name in allowed}
    done, under_way = begun(folder), begun(folder, under_way=True)
    notes = [(c, _why_not(c, under_way if c.setting in _OF_ONE_ITERATION else done, names)) for c in changes]
    if any(note for _, note in notes):
        lines = "\n".join(f"  {change}{f' ({note})' if note else ''}" for change, note in notes)
        raise InputError(f"--workdir {folder}: holds a run with another configuration:\n{lines}\n"
                         "give the same configuration to resume it, or another --workdir to start a new run")


def _why_not(change: Difference, done: Mapping[str, int], allowed: Collection[str]) -> str:
    """Why a change is refused; '' where it is not."""
    section = change.setting.partition(".")[0]
    if change.read_by is None:
        return "every stage may depend on it"
    for stage in change.read_by:
        if stage in done:
            return f"{stage} has begun, in iteration {done[stage]}"
    if section in allowed or change.setting in allowed:
        return ""
    name = section if section in SECTIONS else change.setting
    return f"no stage that reads it has begun: --allow_change={name} takes the new value"


def accept(folder: storage.Path, changes: Sequence[Difference]) -> None:
    """Notes changes that `check` has let pass, and forgets what stages without results had noted before them."""
    path = folder / CHANGES
    cure = "delete it: it is only a log of the changes"
    rows = [row for _, row in read_json_lines(path, cure)] if path.exists() else []
    if any(not {"key", "from", "to"} <= row.keys() for row in rows):
        raise InputError(f"{path}: a line has no key, from or to; {cure}")
    latest = {row["key"]: row for row in rows}  # a process killed before it wrote config.json has noted them already
    rows += [{"key": c.key, "from": c.old, "to": c.new, "when": time.time()} for c in changes
             if c.key not in latest or (latest[c.key]["from"], latest[c.key]["to"]) != (c.old, c.new)]
    for stage in {stage for change in changes for stage in change.read_by or ()}:
        for iteration in folder.iterdir():
            manifest = iteration / stage / "manifest.json"
            if iteration.name.startswith("iteration_") and manifest.exists() and not _has_worked(iteration / stage):
                manifest.unlink()
    write_lines(path, "".join(json.dumps(row) + "\n" for row in rows))
