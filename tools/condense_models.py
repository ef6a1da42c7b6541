"""Condenses models and tables what came of it: parameters, MACs and bytes before and after, both errors, seconds.

    python tools/condense_models.py MODEL_OR_FOLDER [...] [--json OUT] [-- OPTIONS OF onnx-condense]

Without options every model is condensed at threshold 0.88 and with --lossless (alignment as the host wants it).
Errors are on generated inputs, seed 0. Prints a Markdown table, with the machine and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DEFAULT_RUNS = (["--threshold", "0.88"], ["--lossless"])


def models(places: Sequence[Path]) -> Iterator[Path]:
    """Every .onnx file named or below a folder named."""
    for place in places:
        yield from sorted(place.rglob("*.onnx")) if place.is_dir() else [place]


def run(path: Path, options: Sequence[str], folder: Path) -> dict[str, Any]:
    """One run of the command line; its report, or the line that it refused with."""
    report, output = folder / "report.json", folder / "out.onnx"
    command = [sys.executable, "-m", "onnx_condense", str(path), "-o", str(output), "--force", "--quiet"]
    start = time.perf_counter()
    done = subprocess.run([*command, "--report", str(report), *options], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {"model": path.name, "options": " ".join(options), "exit": done.returncode}
    row["seconds"] = round(seconds, 2)
    if done.returncode:
        return row | {"error": done.stderr.strip()}
    content = json.loads(report.read_text())
    for key in ("parameters", "macs", "bytes"):
        row[key] = [content["input"][key], (content["output"] or content["input"])[key]]
    row["surgery_error"] = content["verification"]["surgery_error"]
    row["approximation_error"] = content["verification"]["approximation_error"]
    return row


def markdown(row: dict[str, Any]) -> str:
    """A table line."""
    if row["exit"]:
        return f"| {row['model']} | {row['options']} | {row['error']} | | | | | {row['seconds']} |"
    cells = [f"{before:,} → {after:,}" for before, after in (row[k] for k in ("parameters", "macs", "bytes"))]
    errors = ["not finite" if row[k] is None else f"{row[k]:.1e}" for k in ("surgery_error", "approximation_error")]
    return f"| {' | '.join([row['model'], row['options'], *cells, *errors])} | {row['seconds']} |"


def main() -> None:
    """Runs everything and prints the table."""
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description="table of condensed models")
    parser.add_argument("places", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given[:split])
    runs = (given[split + 1 :],) if split < len(given) else DEFAULT_RUNS
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| model | options | parameters | MACs | bytes | surgery | approximation | seconds |\n|" + "---|" * 8)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for path in models(arguments.places):
            for options in runs:
                rows.append(run(path, options, Path(folder)))
                print(markdown(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
