"""GGUF files whose header is wrong: what is said of each."""

import os
import struct

import numpy as np
import pytest

from ilf_jax.errors import InputError
from ilf_jax.models import gguf_files

gguf = pytest.importorskip("gguf")
pytestmark = [pytest.mark.fast, pytest.mark.versions]

F32, Q8_0 = 0, 8


def text(value):
    return struct.pack("<Q", len(value)) + value


def file_of(tensors=(), metadata=(), counts=None, version=3, magic=b"GGUF", data=b"", alignment=32):
    """A GGUF file. Tensors: (name, shape, type, offset); metadata: (key, type, bytes of the value)."""
    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in metadata)
    for name, shape, kind, offset in tensors:
        body += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
    head = magic + struct.pack("<I", version) + struct.pack("<QQ", *(counts or (len(tensors), len(metadata)))) + body
    return head + bytes(-len(head) % alignment) + data


A, B = (b"a", (8,), F32, 0), (b"b", (8,), F32, 32)


@pytest.mark.parametrize(("data", "words"), [
    (b"", "it is empty"),
    (b"GGU", r"not a GGUF file; it begins with b'GGU'"),
    (b"\x80\x04junk", "not a GGUF file"),
    (b"GGUF\x03\0\0\0", "cut short: the file of 8 bytes"),
    (file_of(version=1), "version 1; versions 2 and 3"),
    (file_of(version=2**20 + 5), "is GGUF of version"),
    (file_of(counts=(2**60, 0)), rf"has {2**60} tensors, which do not fit into its 32 bytes"),
    (file_of(counts=(0, 2**60)), rf"has {2**60} metadata entries, which do not fit"),
    (file_of(counts=(0, 2)), "cut short|do not fit"),
    (file_of(metadata=[(b"k", 8, struct.pack("<Q", 2**60))]), rf"metadata 'k' has {2**60} bytes, but the file has"),
    (file_of(metadata=[(b"k", 9, struct.pack("<IQ", 8, 2**60))]), rf"has {2**60} elements in metadata 'k'"),
    (file_of(metadata=[(b"k", 9, struct.pack("<IQ", 0, 2**21 + 1) + bytes(2**21 + 1))]), "2097152 can be read"),
    (file_of(metadata=[(b"k", 9, struct.pack("<IQ", 9, 1) + bytes(99))]), "array of the unsupported type 9"),
    (file_of(metadata=[(b"k", 77, bytes(8))]), "metadata 'k' is of the unknown type 77"),
    (file_of(metadata=[(b"general.alignment", 4, bytes(4))]), "general.alignment = 0; expected a power of two"),
    (file_of(metadata=[(b"general.alignment", 8, text(b"32"))]), "general.alignment = None; expected a power of two"),
    (file_of([(b"a", (8,), 999, 0)], data=bytes(32)), "tensor a is of the unknown type 999"),
    (file_of([(b"a", (33,), Q8_0, 0)], data=bytes(99)), "tensor a has rows of 33 elements, not whole blocks of 32"),
    (file_of([(b"a", (1, 1, 1, 1, 1), F32, 0)], data=bytes(4)), "tensor a has 5 axes; at most 4"),
    (file_of([(b"a", (2**32, 2**32), F32, 0)], data=bytes(32)), "tensor a ends at byte 73786976294838206560?"),
    (file_of([(b"a\n\x1b[31m", (8,), F32, 0)], data=bytes(32)), r"the name of a tensor is 'a\\n\\x1b\[31m'"),
    (file_of([(b"a" * 5000, (8,), F32, 0)], data=bytes(32)), r"the name of a tensor is 'a+\.\.\.,"),
    (file_of([A, (b"a", (8,), F32, 32)], data=bytes(64)), "two tensors are called a"),
    (file_of([A, (b"b", (8,), F32, 0)], data=bytes(32)), "tensors a and b overlap"),
    (file_of([(b"a", (16,), F32, 0), B], data=bytes(64)), "tensors a and b overlap"),
    (file_of([A, (b"b", (8,), F32, 64)], data=bytes(96)), "32 bytes before tensor b that belong to no tensor"),
    (file_of([(b"a", (8,), F32, 7)], data=bytes(64)), "tensor a has the offset 7, not a multiple of 32"),
    (file_of([A, B], data=bytes(63)), r"tensor b ends at byte \d+, but the file has \d+; it is cut short"),
])
def test_refused(tmp_path, data, words):
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as error:
        gguf_files.open_gguf(str(path))
    assert str(path) in str(error.value)


def test_read(tmp_path):
    path = tmp_path / "m.gguf"
    values = np.arange(16, dtype=np.float32)
    path.write_bytes(file_of([B, A], data=values.tobytes()))  # in any order
    file = gguf_files.open_gguf(str(path))
    np.testing.assert_array_equal(file.read("a"), values[:8])
    np.testing.assert_array_equal(file.read("b"), values[8:])


def test_whole_numbers_are_no_weights(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(file_of([(b"a", (8,), gguf.GGMLQuantizationType.I32, 0)], data=bytes(32)))
    with pytest.raises(InputError, match="tensor a is of type I32"):
        gguf_files.open_gguf(str(path)).check("a")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"),
                                   FileNotFoundError(2, "No such file or directory")])
def test_errors_of_the_system(tmp_path, monkeypatch, error):
    path = tmp_path / "m.gguf"
    path.write_bytes(file_of())
    monkeypatch.setattr(gguf_files, "open", _raising(error), raising=False)
    with pytest.raises(InputError, match=rf"m\.gguf: cannot be read: {error.strerror}"):
        gguf_files.open_gguf(str(path))


def _raising(error):
    def fail(*args):
        raise error

    return fail


def test_gone(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        gguf_files.open_gguf(str(tmp_path / "m.gguf"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        gguf_files.open_gguf(os.fspath(tmp_path))
