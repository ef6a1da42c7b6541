"""Images as numbers: in the size, layout and type that the model states (extra `images`)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array
from onnx_condense.data.sources import Images, Pixels
from onnx_condense.data.wanted import Batch, Wanted, only, sizes_of
from onnx_condense.errors import InputError, UsageError, first_line
from onnx_condense.extras import need
from onnx_condense.trust import takes_in

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""By the number of channels: how Pillow calls such images."""

LARGEST = 255
"""A pixel at most."""


@dataclass(frozen=True)
class Layout:
    """How an input lays images out. first: whether channels come before height and width."""

    channels: int
    height: int
    width: int
    first: bool


def read(path: str | os.PathLike[str], wanted: Sequence[Wanted]) -> list[Batch]:
    """A folder of images [samples, ...] for the only input. Raises InputError, and UsageError for what is missing."""
    need(f"reading images ({os.fspath(path)})", "images", ["PIL"])
    images = path if isinstance(path, Images) else Images(os.fspath(path))
    one = only(wanted, images.path, "a folder of images")
    layout = layout_of(one, images)
    scaled = _scale(one, images.pixels, layout)
    found = np.empty((len(files := images.files()), *_shape(layout)), one.dtype)
    takes_in(found.nbytes)
    for index, name in enumerate(files):
        pixels = _pixels(name, layout)
        pixels = pixels if scaled is None else (pixels.astype(np.float32) / LARGEST - scaled[0]) / scaled[1]
        found[index] = np.moveaxis(pixels, -1, 0) if layout.first else pixels
    return [Batch(images.path, {one.name: found})]


def layout_of(wanted: Wanted, images: Images) -> Layout:
    """Where an input has its channels, height and width.

    Raises InputError where it does not say so, UsageError where another size is asked for.
    """
    dims, size = wanted.dims, images.pixels.image_size
    said = f"{wanted.name} ({sizes_of(dims)} {wanted.dtype.name})"
    if len(dims) not in (3, 4):
        raise InputError(f"{images.path} is a folder of images, and {said} is none: write loader.py:function")
    inner = dims[-3:]
    first, last = (isinstance(size, int) and size in MODES for size in (inner[0], inner[2]))
    if first == last:
        line = f"say so, as --input-shape {wanted.name}={'1x' * (len(dims) - 3)}3x224x224"
        what = line if any(isinstance(size, str) for size in inner) else "write loader.py:function"
        raise InputError(f"{said} does not say where it has channels (1, 3 or 4 of them): {what}")
    stated = inner[1:] if first else inner[:2]
    wishes = (size or ("", "")) * (2 if size is not None and len(size) == 1 else 1)
    found = [wish if isinstance(dim, str) else dim for dim, wish in zip(stated, wishes, strict=True)]
    if any(isinstance(dim, int) and wish not in ("", dim) for dim, wish in zip(stated, wishes, strict=True)):
        raise UsageError(f"--image-size {'x'.join(map(str, size or ()))} does not fit the model's {said}: drop it")
    height, width = (dim if isinstance(dim, int) else 0 for dim in found)
    if not height or not width:
        raise InputError(f"{said} does not say how large images are: give --image-size, as 224 or 224x160")
    channels = inner[0] if first else inner[2]
    return Layout(int(channels), height, width, first)


def _shape(layout: Layout) -> tuple[int, ...]:
    sizes = (layout.height, layout.width)
    return (layout.channels, *sizes) if layout.first else (*sizes, layout.channels)


def _scale(wanted: Wanted, pixels: Pixels, layout: Layout) -> tuple[Array, Array] | None:
    """Mean and standard deviation [channels] of pixels from 0 to 1; None where pixels stay as they are."""
    if wanted.dtype == np.uint8:
        if pixels.mean is not None or pixels.std is not None:
            raise UsageError(f"{wanted.name} takes pixels as they are (uint8): drop --mean and --std")
        return None
    if wanted.dtype.kind != "f" and wanted.dtype.name != "bfloat16":
        raise InputError(f"how {wanted.dtype.name} is made of pixels is not known: write loader.py:function")
    if pixels.mean is None or pixels.std is None:
        raise UsageError(
            "images need --mean and --std, those of the training: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
            "(ImageNet), --mean 0 --std 1 (pixels from 0 to 1), or --mean 0.5 --std 0.5 (from -1 to 1)"
        )
    for option, numbers in (("--mean", pixels.mean), ("--std", pixels.std)):
        if len(numbers) not in (1, layout.channels):
            raise UsageError(f"{option} has {len(numbers)} numbers, the images have {layout.channels} channels")
    return np.array(pixels.mean, np.float32), np.array(pixels.std, np.float32)


def _pixels(name: str, layout: Layout) -> Array:
    """An image [height, width, channels]: scaled to cover its place, and cut at the sides. Raises InputError."""
    from PIL import Image, ImageOps

    size = (layout.width, layout.height)
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(name) as image,
        ):
            if image.mode[0] in "IF":
                raise InputError(f"{name} has more than 8 bits per pixel: write loader.py:function")
            fitted = ImageOps.fit(image.convert(MODES[layout.channels]), size, Image.Resampling.BILINEAR)
    except InputError:
        raise
    except Exception as error:  # its decoders raise whatever they trip over
        raise InputError(f"cannot read {name} ({first_line(error)}): mend it, or leave it out") from error
    return np.asarray(fitted).reshape(layout.height, layout.width, layout.channels)
