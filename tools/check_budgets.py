"""Checks that budgets are met, and closely: at most the share asked for, and at most 0.01 below it.

    python tools/check_budgets.py MODEL_OR_FOLDER [...] [--shares 0.9 0.7 0.5] [--units params macs] [-- OPTIONS]

OPTIONS are those of onnx-condense; without them, --align 1. Prints a Markdown row per run: the share kept, or the line
that it was refused with. "far" marks results more than 0.01 below: the last channel that went was larger than that.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from condense_models import models, run

CLOSE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.9, 0.7, 0.5])
    parser.add_argument("--units", nargs="+", choices=("params", "macs"), default=["params", "macs"])
    arguments, rest = parser.parse_known_args()
    options = [text for text in rest if text != "--"] or ["--align", "1"]
    print("| model | budget | kept | | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in models(arguments.places):
            for unit in arguments.units:
                for share in arguments.shares:
                    row = run(path, ["--budget", f"{unit}={share}", *options], Path(folder))
                    if row["exit"]:
                        text = f"| {row['error'].removeprefix('onnx-condense: error: ')}"
                    else:
                        before, after = row["parameters" if unit == "params" else "macs"]
                        kept = after / before
                        verdict = "ABOVE" if kept > share else "far" if kept < share - CLOSE else ""
                        text = f"{kept:.4f} | {verdict}"
                    print(f"| {path.name} | {unit}={share:g} | {text} | {row['seconds']} |", flush=True)


if __name__ == "__main__":
    main()
