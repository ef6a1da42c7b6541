"""A condensed model beside its original in Polygraphy (extra `polygraphy`), as its own `polygraphy run` compares them.

    python docs/examples/polygraphy_compare.py MODEL.onnx [--threshold 0.95] [--relative 0.1]

`condensed` is a loader as Polygraphy has them: wherever it takes a model, it takes that one condensed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import onnx
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator, CompareFunc

from onnx_condense import Options, condense


def condensed(model: str, options: Options) -> Callable[[], bytes]:
    """A loader of a model that is condensed first."""
    return lambda: condense(model, options).model.SerializeToString()


def loaded(model: str) -> Callable[[], bytes]:
    """A loader of a model as it is."""
    return lambda: onnx.load(model).SerializeToString()


def main() -> int:
    """Command line entry point: exit code 1 where outputs differ by more, relative to the largest number."""
    parser = argparse.ArgumentParser(description="a condensed model beside its original")
    parser.add_argument("model")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--relative", type=float, default=0.1)
    given = parser.parse_args()
    loaders = {
        "original": loaded(given.model),
        "condensed": condensed(given.model, Options(threshold=given.threshold, align=1)),
    }
    runners = [OnnxrtRunner(SessionFromOnnx(loader), name=name) for name, loader in loaders.items()]
    results = Comparator.run(runners)
    compare = CompareFunc.simple(rtol=given.relative, atol=given.relative, check_error_stat="mean")
    return 0 if bool(Comparator.compare_accuracy(results, compare_func=compare)) else 1


if __name__ == "__main__":
    sys.exit(main())
