"""What an archive of arrays states is looked at before anything is read."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib import format as npy

from onnx_condense import InputError
from onnx_condense.data import archives
from onnx_condense.data.archives import read_archive
from onnx_condense.errors import LimitError
from onnx_condense.trust import Trust, within

ARRAY = np.arange(6, dtype=np.float32)


def stored(*members: tuple[str, bytes], compressed: bool = False) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", 8 if compressed else 0) as archive:
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def whole(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def encrypted() -> bytes:
    data = bytearray(stored(("x.npy", whole(ARRAY))))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    return bytes(data)


def read(data: bytes) -> dict[str, np.ndarray]:
    return read_archive(io.BytesIO(data), "d.npz", "pass an .npz", ["x"])


def test_what_numpy_writes_is_read() -> None:
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, x=ARRAY, y=ARRAY.astype(complex), z=np.asfortranarray(np.eye(3)))
        assert list(read(file.getvalue())) == ["x"]
        found = read_archive(file, "d.npz", "")
        assert {name: value.dtype.name for name, value in found.items()} == {
            "x": "float32",
            "y": "complex128",
            "z": "float64",
        }
        assert np.array_equal(found["x"], ARRAY)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: stored(("x.npy", whole(ARRAY)), ("x.npy", whole(ARRAY))), "holds x twice"),
        (encrypted, "is encrypted"),
        (lambda: stored(("x.npy", whole(ARRAY)[:-3])), "x is damaged or cut short"),
        (lambda: stored(("x.npy", header((10**12,)))), "x is damaged or cut short"),
        (lambda: stored(("x.npy", header((2**62, 2**62)))), "x is damaged or cut short"),
        (lambda: stored(("x.npy", header((-4,)) + bytes(16))), "x is damaged or cut short"),
        (lambda: stored(("x.npy", whole(np.array([{}], dtype=object)))), "x is not an array of numbers"),
        (lambda: stored(("x.npy", b"\x93NUMPY\x09\x00")), "pass an .npz"),
        (lambda: stored(("x.npy", b"")), "pass an .npz"),
        (lambda: stored(("x.npy", whole(ARRAY)))[:-30], "pass an .npz"),
        (lambda: whole(ARRAY), "pass an .npz"),
        (lambda: b"", "pass an .npz"),
        (lambda: struct.pack("<100Q", *range(100)), "pass an .npz"),
    ],
)
def test_what_is_odd_is_refused(make: Callable[[], bytes], says: str) -> None:
    with pytest.raises(InputError, match=f"^cannot read d.npz: .*{re.escape(says)}"):
        read(make())


@pytest.mark.parametrize("members", [1, 4])
def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, members: int) -> None:
    monkeypatch.setattr(archives, "FREE", 2**24)
    part = whole(np.zeros(5 * 2**20 // members, dtype=np.float32))
    data = stored(*((f"{name}.npy", part) for name in "xyzt"[:members]), compressed=True)
    assert len(data) < 2**16
    with pytest.raises(LimitError, match=r"it unpacks to 0\.0195 GB, allow more with --limit-memory"):
        read_archive(io.BytesIO(data), "d.npz", "")
    for allowed in (0, 1):
        with within(Trust(limit_memory=allowed)):
            assert len(read_archive(io.BytesIO(data), "d.npz", "")) == members
