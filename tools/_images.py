"""Images with labels, as a model wants them, and what it makes of them."""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_condense.errors import InputError
from onnx_condense.model.runtime import run, session

BATCH = 100

MEAN, DEVIATION = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
"""Of the colours of CIFAR-10."""

DEVIATIONS = {
    "mobilenetv2_cifar10.onnx": DEVIATION,
    "resnet56_cifar10.onnx": [0.2023, 0.1994, 0.2010],
}
"""By which its images were normalized that these networks were trained on."""


@dataclass(frozen=True)
class Images:
    """Inputs of a model and their labels."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]


def load(data: Path, least: int) -> dict[str, np.ndarray[Any, Any]]:
    """The four arrays. Raises InputError where there are none, or not more than `least` images to train on."""
    if data.is_dir() and (data / "load.py").is_file():
        spec = importlib.util.spec_from_file_location("load", data / "load.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        arrays = dict(module.load())
    else:
        found = sorted(data.glob("*.npz")) if data.is_dir() else [data]
        if not found or not zipfile.is_zipfile(found[0]):
            raise InputError(f"{data} is no .npz, nor a folder with one or with a load.py")
        with np.load(found[0], allow_pickle=False) as archive:
            arrays = dict(archive)
    missing = {"train_x", "train_y", "test_x", "test_y"} - set(arrays)
    if missing:
        raise InputError(f"{data} lacks {', '.join(sorted(missing))}")
    if len(arrays["train_x"]) <= least:
        raise InputError(f"{data} has too few training images: calibration takes {least:,}, settings need more")
    return arrays


def prepared(images: np.ndarray[Any, Any], mean: list[float], std: list[float], shape: list[int]) -> Any:
    """[n, ...] as the model with inputs of this shape (0: any size) wants them. Raises InputError otherwise."""
    if images.ndim == 3:
        images = images[..., None]
    if {len(mean), len(std)} - {1, images.shape[-1]}:
        raise InputError(f"--mean and --std have one number, or one per channel of the images ({images.shape[-1]})")
    values = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    if len(shape) != 4 or values.shape[3] == shape[1]:
        values = values.transpose(0, 3, 1, 2)
    sizes = [size or own for size, own in zip(shape[1:], values.shape[1:], strict=False)]
    if len(shape) < 2 or np.prod(sizes) != np.prod(values.shape[1:]):
        raise InputError(f"the images {images.shape[1:]} do not fit the model's input {shape}")
    return np.ascontiguousarray(values.reshape(len(values), *sizes), dtype=np.float32)


def outputs(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[n, classes] of the first output."""
    active = session(model)
    given = active.get_inputs()[0]
    batch = given.shape[0] if isinstance(given.shape[0], int) else BATCH
    parts = [x[start : start + batch] for start in range(0, len(x), batch)]
    whole = [run(active, None, {given.name: np.resize(part, (batch, *part.shape[1:]))})[0] for part in parts]
    return np.concatenate(whole).reshape(len(parts) * batch, -1)[: len(x)].astype(np.float64)


def cifar(data: Path | None, name: str) -> Images | None:
    """The test images, as one of these networks wants them; None of others, and without any. Raises InputError."""
    if data is None or name not in DEVIATIONS:
        return None
    arrays = load(data, 0)
    return Images(prepared(arrays["test_x"], MEAN, DEVIATIONS[name], [0, 3, 32, 32]), arrays["test_y"])
