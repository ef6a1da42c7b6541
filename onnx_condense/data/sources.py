"""Which kind of data a path names, and which files belong to it. Nothing is read here, nor anything large imported."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from onnx_condense.errors import InputError, UsageError
from onnx_condense.expected import is_number
from onnx_condense.flags import Heading, check, option

TOGETHER = 128
"""Images that are held at once."""


class Kind(StrEnum):
    """Kinds of data, as messages name them."""

    ARCHIVE = ".npz files"
    ARRAY = ".npy files"
    CSV = ".csv files"
    PARQUET = ".parquet files"
    TENSORS = "input_*.pb files"
    IMAGES = "images"
    LOADER = "loaders"


SUFFIXES = {
    ".npz": Kind.ARCHIVE,
    ".npy": Kind.ARRAY,
    ".csv": Kind.CSV,
    ".tsv": Kind.CSV,
    ".parquet": Kind.PARQUET,
    ".pb": Kind.TENSORS,
} | dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"), Kind.IMAGES)
"""What the ending of a name says."""

TABULAR = (Kind.ARRAY, Kind.CSV, Kind.PARQUET)
"""Kinds that a folder may hold beside .npz files, which name their arrays and so win."""

TAKEN = ".npz, .npy, .csv, .parquet, images or a folder of one of these, test_data_set_*, or loader.py:function"
"""What may be given, in words."""

LOADER = re.compile(r".*\.py:[^\W\d]\w*", re.S)


def _sizes(text: str) -> tuple[int, ...]:
    """224 or 224x160, height first. Raises ValueError."""
    sizes = tuple(int(size) for size in text.split("x"))
    if len(sizes) > 2 or min(sizes) < 1:
        raise ValueError(text)
    return sizes


def _numbers(text: str) -> tuple[float, ...]:
    """0.5 or 0.4,0.5,0.6. Raises ValueError."""
    return tuple(float(number) for number in text.split(","))


def _size(option: str, value: Any) -> None:
    """One size or two. Raises UsageError."""
    if not (len(value) in (1, 2) and all(isinstance(one, int) and one > 0 for one in value)):
        raise UsageError(f"{option} is a positive whole number or two, (height, width), not {value}")


def _shares(option: str, value: Any) -> None:
    """Numbers from 0 to 1, one or one for each channel. Raises UsageError."""
    if not all(is_number(one) and 0 <= one <= 1 for one in value):
        raise UsageError(f"{option} is of pixels from 0 to 1, so its numbers are too: divide those of 0 to 255 by 255")
    if option == "--std" and not all(value):
        raise UsageError("--std is what pixels are divided by: it is never 0")


@dataclass(frozen=True)
class Pixels:
    """How images become numbers. Each field has the name of its command-line option.

    Attributes:
        image_size: (height, width), or one number for both; images are scaled to cover it and cut at the sides. None:
            the model's.
        mean, std: what is subtracted from pixels of 0 to 1, and what they are divided by then: one number, or one for
            each channel. Integers of one byte take pixels as they are.
    """

    image_size: tuple[int, ...] | None = option(
        None, "of a folder of images, height first", Heading.INPUTS, "224|224x160", _sizes, _size, unset="the model's"
    )
    mean: tuple[float, ...] | None = option(
        None, "subtracted from pixels of 0 to 1", Heading.INPUTS, "0.485,0.456,0.406", _numbers, _shares
    )
    std: tuple[float, ...] | None = option(
        None, "what pixels are divided by then", Heading.INPUTS, "0.229,0.224,0.225", _numbers, _shares
    )

    def __post_init__(self) -> None:
        """Raises UsageError for values out of range; one number may be given as such."""
        for name in ("image_size", "mean", "std"):
            value = getattr(self, name)
            if isinstance(value, int | float):
                object.__setattr__(self, name, (value,))
        check(self)

    def of(self, given: Any) -> Any:
        """What `data` and `calibration` may be, with this said of those paths that name images. Raises InputError."""
        if isinstance(given, list | tuple):
            return [self.of(one) for one in given]
        names = isinstance(given, str | os.PathLike) and self != Pixels() and kind_of(os.fspath(given)) is Kind.IMAGES
        return Images(os.fspath(given), self) if names else given


@dataclass(frozen=True)
class Images(os.PathLike[str]):
    """A folder of images (or one image), and how they become numbers.

    part: which of them, in the order of their names: from where, to where (None: all of them).
    """

    path: str
    pixels: Pixels = Pixels()
    part: tuple[int, int] | None = None

    def __fspath__(self) -> str:
        return self.path

    def files(self) -> list[str]:
        """The images, sorted. Raises InputError where there are none."""
        found = images_of(self.path)
        return found[slice(*self.part)] if self.part is not None else found


def kind_of(path: str) -> Kind:
    """Which kind of data a path names. Raises InputError for what is not there, or of no kind."""
    if is_loader(path):
        return Kind.LOADER
    if os.path.isdir(path):
        return _kind_of_folder(path)
    if not os.path.exists(path):
        raise InputError(f"cannot read {path} (no such file): data is {TAKEN}")
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".py":
        raise InputError(f"{path} is a program: name the function in it that yields inputs, as {path}:function")
    return SUFFIXES.get(suffix, Kind.ARCHIVE)


def is_loader(path: str) -> bool:
    """Whether a path is of the form loader.py:function."""
    return bool(LOADER.fullmatch(path)) and not os.path.exists(path)


def _kind_of_folder(path: str) -> Kind:
    if tensor_folders(path):
        return Kind.TENSORS
    found = {kind: name for name in reversed(_listed(path)) if (kind := _kind_of_name(name)) is not None}
    if Kind.ARCHIVE in found:
        return Kind.ARCHIVE
    kinds = [kind for kind in TABULAR if kind in found] + [Kind.IMAGES] * bool(images_of(path))
    if len(kinds) == 1:
        return kinds[0]
    if not kinds:
        raise InputError(f"the folder {path} holds no data: {TAKEN}")
    raise InputError(f"the folder {path} holds {' and '.join(kinds)}: name one file, or a folder with one kind")


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"cannot read {folder} ({error.strerror}): check the path") from error


def _kind_of_name(name: str) -> Kind | None:
    return SUFFIXES.get(os.path.splitext(name)[1].lower())


def images_of(path: str) -> list[str]:
    """The images of a folder and of the folders in it, sorted; of a file, itself."""
    if not os.path.isdir(path):
        return [path]
    found = [os.path.join(place, name) for place, _, names in os.walk(path) for name in names if name[0] != "."]
    return sorted(name for name in found if _kind_of_name(name) is Kind.IMAGES)


def tensor_folders(path: str) -> list[str]:
    """The folders with input_*.pb: those in a folder that are called test_data_set_*, or itself."""
    inside = [os.path.join(path, name) for name in _listed(path) if name.startswith("test_data_set")]
    sets = [folder for folder in inside if os.path.isdir(folder)]
    sets.sort(key=lambda folder: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", folder)])
    return sets or ([path] if any(re.fullmatch(r"input_\d+\.pb", name) for name in _listed(path)) else [])


def files_of(given: Any) -> list[Path]:
    """The files that data come from: none for arrays, its own for a loader. Raises InputError."""
    if not isinstance(given, str | os.PathLike):
        return []
    path = os.fspath(given)
    kind = kind_of(path)
    if kind is Kind.LOADER:
        return [Path(path.rpartition(":")[0])]
    if kind is Kind.IMAGES:
        return [Path(name) for name in (given if isinstance(given, Images) else Images(path)).files()]
    if kind is Kind.TENSORS and os.path.isdir(path):
        named = [Path(folder, name) for folder in tensor_folders(path) for name in _listed(folder)]
        return [name for name in named if name.suffix == ".pb"]
    return [Path(name) for name in _files(path, kind)]


def _files(path: str, kind: Kind) -> list[str]:
    """A file, or the files of this kind in a folder."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in _listed(path) if _kind_of_name(name) is kind]


def parts_of(given: Any) -> list[Any]:
    """Parts of data that are read one after another: files of a folder, so many images at a time. Raises InputError."""
    if not isinstance(given, str | os.PathLike):
        return [given]
    path = os.fspath(given)
    kind = kind_of(path)
    if kind is Kind.IMAGES:
        images = given if isinstance(given, Images) else Images(path)
        starts = range(0, max(1, len(images.files())), TOGETHER)
        return [replace(images, part=(start, start + TOGETHER)) for start in starts]
    return [path] if kind in (Kind.TENSORS, Kind.LOADER) else list(_files(path, kind))


def absolute(given: Any) -> Any:
    """Data whose path others may read, in another folder."""
    if isinstance(given, Images):
        return replace(given, path=os.path.abspath(given.path))
    return os.path.abspath(given) if isinstance(given, str | os.PathLike) else given
