"""Condenses a model with calibration inputs, then quantizes it to eight bits with onnxruntime.

python docs/examples/condense_and_quantize.py MODEL.onnx INPUTS.npz OUT.onnx [--share 0.6]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from onnx_condense import Options, condense, verify


class Reader(CalibrationDataReader):
    """Samples of an .npz, a few at a time, as onnxruntime asks for them."""

    def __init__(self, path: str, at_once: int = 32) -> None:
        arrays = dict(np.load(path))
        count = len(next(iter(arrays.values())))
        steps = range(0, count, at_once)
        self.batches: Iterator[dict[str, np.ndarray]] = iter(
            {name: array[step : step + at_once] for name, array in arrays.items()} for step in steps
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None at the end."""
        return next(self.batches, None)


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="float model in, small model of eight bits out")
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("out")
    parser.add_argument("--share", type=float, default=0.6, help="of the parameters that is kept")
    given = parser.parse_args()
    result = condense(given.model, Options(budget=("params", given.share), calibration=given.inputs))
    with tempfile.TemporaryDirectory() as folder:
        small = str(Path(folder, "small.onnx"))
        onnx.save(result.model, small)
        quantize_static(small, given.out, Reader(given.inputs), quant_format=QuantFormat.QDQ)
    for name, path in (("condensed", result.model), ("and quantized", given.out)):
        size = path.ByteSize() if isinstance(path, onnx.ModelProto) else Path(path).stat().st_size
        error = verify(given.model, path, given.inputs).error
        print(f"{name:>14}: {size:,} bytes, error {error:.4f}")


if __name__ == "__main__":
    main()
