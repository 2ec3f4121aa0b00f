"""Checkpoints by Orbax. The only importer of orbax.

A model checkpoint is a folder: `params/` (Orbax), `model.json` (the architecture) and `tokenizer/`, so that it can be
named by `orbax:DIR` alone. Orbax writes aside and renames; a half-written one is never found.
"""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from ilf_jax.errors import InputError
from ilf_jax.models.config import ModelConfig, RopeScaling


def save_model(folder: pathlib.Path, params: Any, config: ModelConfig) -> None:
    """Writes params and architecture; an earlier attempt is replaced. Raises InputError when the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "params", params)
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", encoding="utf-8")


def read_model_config(folder: pathlib.Path) -> ModelConfig:
    """The architecture of a saved model. Raises InputError if the folder is no model checkpoint."""
    path = folder / "model.json"
    if not path.exists() or not (folder / "params").exists():
        raise InputError(f"orbax:{folder}: is no model checkpoint (a folder with params/ and model.json)")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts["rope_scaling"] is not None:
        facts["rope_scaling"] = RopeScaling(**facts["rope_scaling"])
    return ModelConfig(**facts)


def load_model(folder: pathlib.Path, shapes: Any) -> Any:
    """Params in the shapes, dtypes and shardings of `shapes` (jax.ShapeDtypeStruct leaves)."""
    return ocp.load((folder / "params").absolute(), shapes)


def _save(path: pathlib.Path, tree: Any) -> None:
    try:
        ocp.save(path.absolute(), tree, overwrite=True)
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}; earlier checkpoints are whole") from e


class TrainingCheckpoints:
    """States of a training run under way: numbered by step, the latest is gone on from."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def latest(self) -> int | None:
        """Step of the newest complete state."""
        steps = [int(p.name) for p in self._folder.glob("[0-9]*") if p.name.isdecimal() and ocp.is_orbax_checkpoint(p)]
        return max(steps, default=None)

    def save(self, step: int, state: Any) -> None:
        """Writes the state, then deletes the older ones."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _save(self._folder / str(step), state)
        for old in self._folder.glob("[0-9]*"):
            if old.name.isdecimal() and int(old.name) < step:
                shutil.rmtree(old)

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, in the shapes and shardings of `like`."""
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        return ocp.load((self._folder / str(step)).absolute(), shapes)

    def clear(self) -> None:
        """Deletes all states: training is done."""
        shutil.rmtree(self._folder, ignore_errors=True)
