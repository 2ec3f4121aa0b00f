"""GGUF files: metadata as python values, tensors mapped until they are read."""

import dataclasses
import functools
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from ilf_jax.errors import InputError
from ilf_jax.models import gguf_header


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """What a GGUF file holds.

    Attributes:
        metadata: as python values; the vocabulary is the lists under tokenizer.ggml.
        tensors: gguf.ReaderTensor by name, their data mapped, not read.
        mapped: the file that they are mapped from.
        where: the file, for messages.
    """

    metadata: dict[str, Any]
    tensors: dict[str, Any]
    mapped: mmap.mmap
    where: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> numpy shape."""
        return {name: tuple(int(n) for n in reversed(t.shape)) for name, t in self.tensors.items()}

    def check(self, name: str) -> None:
        """Raises InputError if the tensor is not of a type that weights have."""
        kind = self.tensors[name].tensor_type.name
        if kind.startswith("I") and kind[1:].isdecimal():  # I8 to I64; the quantised types IQ4_NL, ... are other names
            raise InputError(f"{self.where}: tensor {name} is of type {kind}, whole numbers; weights are not")

    def read(self, name: str) -> np.ndarray:
        """A tensor, dequantised to float32. Raises InputError where gguf cannot."""
        import gguf

        self.check(name)
        tensor = self.tensors[name]
        try:
            return np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise InputError(f"{self.where}: tensor {name} is of type {kind}, which gguf cannot dequantise") from error
        finally:
            self._forget_pages()

    def _forget_pages(self) -> None:
        """What was read so far is no longer memory of this process; read again, it comes from the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


@functools.lru_cache(maxsize=4)  # parsing a large vocabulary takes seconds; config, params and tokenizer all ask
def _parse(path: str, size: int, mtime: int) -> GGUFFile:
    import gguf

    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            gguf_header.check(path, data)
        reader = gguf.GGUFReader(path)
        # The reader keeps an array for each token of the vocabulary, 3 kB each; it goes.
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        # A numpy.memmap's base is the mmap.mmap behind it.
        mapped: Any = reader.data.base
        return GGUFFile(metadata, {t.name: t for t in reader.tensors}, mapped, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, LookupError, ArithmeticError, TypeError, MemoryError) as error:
        reason = "it is empty" if size == 0 else f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not a GGUF file, or damaged ({reason})") from error


def open_gguf(path: str) -> GGUFFile:
    """A GGUF file, its tensors not yet read. Raises InputError where it is no GGUF, is damaged or cannot be read."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parse(path, stat.st_size, stat.st_mtime_ns)
