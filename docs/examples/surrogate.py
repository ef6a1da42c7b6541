"""Condenses a surrogate in steps and shows what each size costs, to choose one by.

python docs/examples/surrogate.py MODEL.onnx INPUTS [--shares 0.9,0.7,0.5] [--seconds 1]
"""

from __future__ import annotations

import argparse

from onnx_condense import Options, benchmark, condense, verify


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="parameters, latency and error of a model at several sizes")
    parser.add_argument("model")
    parser.add_argument("inputs", help="as of --calibration: .npz, .npy, .csv, .parquet, loader.py:function")
    parser.add_argument("--shares", default="0.9,0.7,0.5", help="of the parameters that are kept")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, at most")
    given = parser.parse_args()
    shares = [float(share) for share in given.shares.split(",")]
    small = [condense(given.model, Options(budget=("params", s), calibration=given.inputs)).model for s in shares]
    (batch,) = benchmark(given.model, *small, threads=1, seconds=given.seconds).batches
    print("share kept   ms/run    error")
    for share, model, row in zip(shares, small, batch.models[1:], strict=True):
        print(f"{share:10.0%} {1000 * row.median:8.4f} {verify(given.model, model, given.inputs).error:8.4f}")


if __name__ == "__main__":
    main()
