"""Checks a GGUF file's header before the gguf library parses it, which trusts every count and length in it."""

import mmap
import struct
from collections.abc import Iterator
from typing import Any

from ilf_jax.errors import InputError
from ilf_jax.models import config_values

_ITEMS = 2**21
"""Values and tensors in a header, at most. The library takes 3 kB for each; vocabularies have less than a million."""
_MAX_DIMENSIONS = 4
_LEAST_VALUE, _LEAST_TENSOR = 13, 24  # bytes of the shortest metadata entry and of the shortest tensor entry


def check(path: str, data: mmap.mmap) -> None:
    """Checks the header of a GGUF file.

    Args:
        path: the file, for messages.
        data: its bytes.

    Raises:
        InputError: it is no GGUF file, a count or length in it goes beyond its end, or a tensor has an unknown type,
            lies beyond the end, upon another tensor or behind a gap.
    """
    try:
        _Header(path, data).check()
    except struct.error as error:
        raise InputError(f"{path}: cut short: the file of {len(data)} bytes ends within its header") from error


class _Header:
    def __init__(self, path: str, data: mmap.mmap) -> None:
        self._path, self._data, self._at, self._items = path, data, 0, 0
        self._order = "<"

    def check(self) -> None:
        if self._data[:4] != b"GGUF":
            raise self._error(f"is not a GGUF file; it begins with {self._data[:4]!r}")
        version = struct.unpack_from("<I", self._data, 4)[0]
        if version & 0xFFFF == 0:  # written on a machine of the other byte order
            self._order, version = ">", struct.unpack_from(">I", self._data, 4)[0]
        if version not in (2, 3):
            raise self._error(f"is GGUF of version {version}; versions 2 and 3 can be read")
        self._at = 8
        tensors, values = self._count(_LEAST_TENSOR, "tensors"), self._count(_LEAST_VALUE, "metadata entries")
        alignment = 32
        for _ in range(values):
            key = self._name("the name of a metadata entry")
            value = self._value(self._number("I"), f"metadata {key!r}")
            if key == "general.alignment":
                alignment = value
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._error(f"general.alignment = {alignment!r}; expected a power of two")
        self._tensors(tensors, alignment)

    def _error(self, problem: str) -> InputError:
        return InputError(f"{self._path}: {problem}")

    def _number(self, code: str) -> Any:
        value = struct.unpack_from(self._order + code, self._data, self._at)[0]
        self._at += struct.calcsize(code)
        return value

    def _skip(self, size: int, what: str) -> int:
        """Goes on behind `size` bytes, and says where they begin."""
        begin, left = self._at, len(self._data) - self._at
        if size > left:
            raise self._error(f"{what} has {size} bytes, but the file has {left} more; it is damaged or cut short")
        self._at += size
        return begin

    def _count(self, least: int, what: str) -> int:
        """A number of things that take `least` bytes each or more."""
        count, left = self._number("Q"), len(self._data) - self._at
        if count * least > left:
            raise self._error(f"has {count} {what}, which do not fit into its {len(self._data)} bytes; it is damaged "
                              "or cut short")
        self._items += count
        if self._items > _ITEMS:
            raise self._error(f"has {self._items} values and tensors in its header; {_ITEMS} can be read")
        return count

    def _name(self, what: str) -> str:
        size = self._number("Q")
        begin = self._skip(size, what)
        name = self._data[begin : begin + min(size, 1024)].decode(errors="replace")
        config_values.check_name(name, what, self._path)
        return name

    def _value(self, kind: int, what: str) -> Any:
        """A value, of which only numbers are returned."""
        codes = "BbHhIif?"  # the kinds of value are numbered: 0 to 7, a string, an array, then 64 bits
        if kind < len(codes):
            return self._number(codes[kind])
        if kind in (10, 11, 12):
            return self._number("Qqd"[kind - 10])
        if kind == 8:
            self._skip(self._number("Q"), what)
        elif kind == 9:
            self._array(what)
        else:
            raise self._error(f"{what} is of the unknown type {kind}")
        return None

    def _array(self, what: str) -> None:
        kind = self._number("I")
        size = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 8: 8, 10: 8, 11: 8, 12: 8}.get(kind)
        if size is None:
            raise self._error(f"{what} is an array of the unsupported type {kind}")
        count = self._count(size, f"elements in {what}")
        if kind != 8:
            self._skip(count * size, what)
            return
        for _ in range(count):
            self._skip(self._number("Q"), f"a string of {what}")

    def _tensors(self, count: int, alignment: int) -> None:
        places = sorted(self._places(count, alignment))
        begin_of_data = -(-self._at // alignment) * alignment
        end, before = 0, ""
        for offset, size, name in places:
            if begin_of_data + offset + size > len(self._data):
                raise self._error(f"tensor {name} ends at byte {begin_of_data + offset + size}, but the file has "
                                  f"{len(self._data)}; it is cut short")
            if offset < end:
                raise self._error(f"tensors {before} and {name} overlap")
            if offset - end >= alignment:  # llama.cpp takes no gaps either: a type or size in the header is wrong
                raise self._error(f"there are {offset - end} bytes before tensor {name} that belong to no tensor")
            end, before = offset + size, name

    def _places(self, count: int, alignment: int) -> Iterator[tuple[int, int, str]]:
        """(Offset in the data, size in bytes, name) of each tensor that is not empty."""
        import gguf

        names = set()
        for _ in range(count):
            name = self._name("the name of a tensor")
            if name in names:
                raise self._error(f"two tensors are called {name}")
            names.add(name)
            dimensions = self._number("I")
            if dimensions > _MAX_DIMENSIONS:
                raise self._error(f"tensor {name} has {dimensions} axes; at most {_MAX_DIMENSIONS} are allowed")
            shape = [self._number("Q") for _ in range(dimensions)]
            kind, offset = self._number("I"), self._number("Q")
            try:
                per_block, bytes_of_block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
            except (ValueError, KeyError) as error:
                raise self._error(f"tensor {name} is of the unknown type {kind}") from error
            if shape and shape[0] % per_block:
                raise self._error(f"tensor {name} has rows of {shape[0]} elements, not whole blocks of {per_block}")
            if offset % alignment:
                raise self._error(f"tensor {name} has the offset {offset}, not a multiple of {alignment}")
            size = bytes_of_block
            for axis in shape:
                size *= axis
            if size:
                yield offset, size // per_block, name
