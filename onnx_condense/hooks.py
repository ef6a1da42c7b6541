"""Checks of condensed models for pre-commit and for CI: each against the model that it was made of.

    python -m onnx_condense.hooks [--tolerance R] [--data INPUTS] NAME.condensed.onnx ...

NAME.onnx beside it is what it was made of. The exit code is 0 where no output differs by more than R (0.05), else that
of the first that does, or that cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from onnx_condense.cli.main import main as run

TOLERANCE = 0.05

ENDING = ".condensed.onnx"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares the models that are named; those that are called otherwise are left out."""
    parser = argparse.ArgumentParser("onnx-condense-check", description="condensed models against their originals")
    parser.add_argument("models", nargs="*", metavar="NAME.condensed.onnx")
    parser.add_argument("--tolerance", default=str(TOLERANCE), help="largest relative L2 error of an output")
    parser.add_argument("--data", help="inputs, as of onnx-condense verify; else they are generated")
    given = parser.parse_args(arguments)
    data = ["--data", given.data] if given.data else []
    codes = []
    for path in map(Path, given.models):
        if path.name.endswith(ENDING):
            original = path.with_name(path.name.removesuffix(ENDING) + ".onnx")
            codes.append(run(["verify", str(original), str(path), "--tolerance", given.tolerance, "--quiet", *data]))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
