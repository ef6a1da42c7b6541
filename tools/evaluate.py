"""Run an ONNX model over a saved test set and print its accuracy or its relative L2 error as one JSON line.

    python tools/evaluate.py MODEL --data DATA.npz

The .npz holds one array per graph input, named like the input with the samples on axis 0, and "target":
integer labels (accuracy) or floating-point regression targets (relative L2 error and R2).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort  # type: ignore[import-untyped]

Result = dict[str, str | int | float]


def evaluate(model: Path, data: Path) -> Result:
    """Return the model's name, the number of samples and the figures of merit on them."""
    with np.load(data, allow_pickle=False) as archive:
        arrays: dict[str, npt.NDArray[Any]] = dict(archive)
    target = arrays.pop("target")
    output = _run(model, arrays)
    result: Result = {"model": model.name, "samples": len(target)}
    if np.issubdtype(target.dtype, np.integer):
        return result | {"accuracy": round(float(np.mean(output.argmax(axis=-1) == target)), 6)}
    return result | _regression_figures(output.astype(np.float64), target.astype(np.float64))


def _run(model: Path, arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feeds = {item.name: arrays[item.name] for item in session.get_inputs()}
    return np.asarray(session.run(None, feeds)[0])


def _regression_figures(output: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> Result:
    residual = np.square(output - target).sum()
    spread = np.square(target - target.mean(axis=0)).sum()
    relative_l2 = np.sqrt(residual / np.square(target).sum())
    return {"relative_l2": round(float(relative_l2), 6), "r2": round(float(1 - residual / spread), 6)}


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the .npz file with the samples")
    arguments = parser.parse_args()
    print(json.dumps(evaluate(arguments.model, arguments.data)))


if __name__ == "__main__":
    main()
