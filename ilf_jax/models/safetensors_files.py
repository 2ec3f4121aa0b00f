"""The tensors of a Hugging Face folder: one safetensors file, or several with an index."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.models import config_values, float8
from ilf_jax.runtime.files import read_json

_FLOATS = ("F32", "BF16", "F16", "F64")
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def has_weights(folder: Path) -> bool:
    """Whether the folder has tensors at all; a config alone is enough for a dry run."""
    return (folder / ONE_FILE).is_file() or (folder / INDEX).is_file()


class SafetensorsFolder:
    """The tensors of a folder, read by name.

    Attributes:
        shapes: tensor name -> shape, without the scales of float8 weights.
        types: tensor name -> type, as in the header: F32, BF16, F8_E4M3, I64, ...
    """

    def __init__(self, folder: Path, block: tuple[int, int]) -> None:
        """Opens all files and reads their headers.

        Args:
            folder: where they are.
            block: rows and columns of a float8 weight that share a scale.

        Raises:
            InputError: no tensors, a file missing or damaged, an index that does not fit them, a tensor twice, or
                float8 without scales.
        """
        self._folder, self._block = folder, block
        self._handles: dict[str, Any] = {}
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        for file, wanted in _files(folder).items():
            self._open(file)
            if missing := sorted(name for name in wanted if self._files.get(name) != file):
                raise InputError(f"{file}: lacks the tensor {missing[0]}, which {INDEX} says is in it")
        self._scales = float8.scale_names(self.types)
        for scale in filter(None, self._scales.values()):
            self.shapes.pop(scale)
        if self._scales:
            self.shapes = {n: s for n, s in self.shapes.items() if not float8.is_of_activations(n)}

    def _open(self, file: Path) -> None:
        import safetensors

        try:
            handle = safetensors.safe_open(file, framework="numpy")
        except OSError as error:
            raise InputError(f"{file}: missing, or cannot be read: {error}") from error
        except safetensors.SafetensorError as error:
            raise InputError(f"{file}: cut short, damaged or not safetensors "
                             f"({config_values.reason(error)})") from error
        for name in handle.keys():  # noqa: SIM118 (not a dict)
            config_values.check_name(name, "a tensor's name", str(file))
            if name in self.shapes:
                raise InputError(f"{file}: tensor {name} is in {self._files[name].name}, too")
            header = handle.get_slice(name)
            self._handles[name], self._files[name] = handle, file
            self.shapes[name], self.types[name] = tuple(header.get_shape()), header.get_dtype()

    def check(self, name: str) -> None:
        """Raises InputError if the tensor is not of a type that weights have."""
        kind, file = self.types[name], self._files[name]
        if name in self._scales:
            if self._scales[name] is None:
                raise InputError(f"{file}: tensor {name} is float8 ({kind}), and there is no scale for it "
                                 f"({name}_scale_inv or {name}_scale); save the model as bfloat16, or with its scales")
        elif kind not in _FLOATS:
            raise InputError(f"{file}: tensor {name} is of type {kind}; weights are of type {', '.join(_FLOATS)}, or "
                             "float8 with scales")

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32; of float8 weights, times their scales. Raises InputError if it cannot be read."""
        import safetensors

        self.check(name)
        scale = self._scales.get(name)
        try:
            if scale is None:
                return self._float32(name)
            return float8.dequantise(self._float32(name), self._float32(scale), self._block)
        except (AttributeError, OSError, TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"{self._files[name]}: tensor {name} of type {self.types[name]} cannot be read "
                             f"({config_values.reason(error)})") from error

    def _float32(self, name: str) -> np.ndarray:
        kind = float8.TYPES.get(self.types[name])
        value = self._handles[name].get_tensor(name) if kind is None else self._raw(name, kind)
        with np.errstate(over="ignore"):  # a float64 that is too large becomes infinite, which whoever reads it refuses
            return np.array(value, np.float32)

    def _raw(self, name: str, kind: Any) -> np.ndarray:
        """A tensor of a type that safetensors does not give to numpy. The header was checked as the file was opened."""
        with self._files[name].open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(size))[name]
            begin, end = header["data_offsets"]
            file.seek(8 + size + begin)
            return np.frombuffer(file.read(end - begin), kind).reshape(header["shape"])


def _files(folder: Path) -> dict[Path, set[str]]:
    """The files of a folder, and the tensors that its index says are in each."""
    if (folder / ONE_FILE).is_file():
        return {folder / ONE_FILE: set()}
    index = folder / INDEX
    if not index.is_file():
        hint = " (it has pytorch_model.bin; convert it to safetensors)" if list(folder.glob("*.bin")) else ""
        raise InputError(f"{folder}: has neither {ONE_FILE} nor {INDEX}{hint}")
    files: dict[Path, set[str]] = {}
    for tensor, name in _weight_map(index).items():
        files.setdefault(folder / name, set()).add(tensor)
    return dict(sorted(files.items()))


def _weight_map(index: Path) -> Mapping[str, str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index}: weight_map = {names!r:.80}; expected an object, from tensors to names of files")
    for tensor, name in names.items():
        config_values.check_name(tensor, "a tensor's name", str(index))
        if not isinstance(name, str) or Path(name).name != name or not name:
            raise InputError(f"{index}: weight_map.{tensor} = {name!r:.80}; expected the name of a file beside it")
        config_values.check_name(name, f"weight_map.{tensor}", str(index))
    return names
