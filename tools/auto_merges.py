"""Which merge method reaches the target with the fewest training steps: a table of docs/results.md.

    python tools/auto_merges.py [--merges calibrated,moments,ratio,delete] [--seeds 5]

Two kinds of networks on the digits of models/digits.npz, trained by tools/digits_trainer.py for 140 passes from small
weights, then reduced until a quarter of the parameters is left, at most one point below the start. `calibrated` gets
256 of the training images. Scores are
accuracies on the 450 images that the trainer does not see; the loop chooses by them, so they are no test of the result.
Writes tools/auto_merges.json, with the steps of every run, and fills the table in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
import onnx
from _marks import fill
from digits_trainer import Digits, digits, new

from onnx_condense import Options
from onnx_condense.finetune import Settings, run

TARGET, LOST = 0.25, 0.01
IMAGES = 256
"""Calibration inputs."""

NETWORKS = (([128, 64], 1.0), ([96, 64, 48], 0.8))
"""Hidden widths, and gamma of the first weights."""


def first(widths: list[int], gamma: float, seed: int) -> tuple[onnx.ModelProto, float]:
    """A trained network and its accuracy."""
    trainer = Digits()
    model, _ = trainer.train(new(widths, gamma, seed), 100, 2e-3, 0)
    model, metrics = trainer.train(model, 40, 3e-4, 0)
    return model, metrics["score"]


def reduced(model: onnx.ModelProto, start: float, merge: Any) -> dict[str, Any]:
    """One run."""
    settings = Settings(
        criterion=(start - 0.004, start - LOST),
        layer_criterion=(start - 0.03, start - 0.03),
        last_criterion=start - LOST,
        deviation_score=0.5,
        learning_rate=(3e-3, 1e-3),
        until=TARGET,
        last_step_limit=20,
        main_step_limit=60,
    )
    began = time.perf_counter()
    inputs = {"input": digits()[0][:IMAGES]} if merge == "calibrated" else None
    options = Options(merge=merge, calibration=inputs, align=1)
    with tempfile.TemporaryDirectory() as folder:
        state = run(model, Digits(), Path(folder) / "work", settings, options)
    result = state.result
    reached = state.reason == "until" and result is not None
    kept = result.parameters / state.start.parameters if result is not None else 1.0
    score = result.score if result is not None else None
    seconds = round(time.perf_counter() - began, 1)
    numbers = {"steps": state.total_steps, "rounds": len(state.rows), "kept": kept, "score": score, "start": start}
    return {"merge": merge, "reached": reached, "seconds": seconds} | numbers


def _line(network: str, merge: str, rows: list[dict[str, Any]]) -> str:
    steps = sorted(r["steps"] for r in rows)
    lost = statistics.median(100 * (r["start"] - (r["score"] or 0)) for r in rows)
    cells = [network, f"`{merge}`", f"{sum(r['reached'] for r in rows)} of {len(rows)}"]
    cells.append(f"{statistics.median(steps):g} ({', '.join(map(str, steps))})")
    cells += [f"{statistics.median(r['kept'] for r in rows):.1%}", f"{lost:+.1f}"]
    return f"| {' | '.join(cells)} |"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The runs of each network and method in a line."""
    lines = ["| network | `--merge` | reached | training steps, median (all) | parameters kept | points lost |"]
    lines.append("|---|---|---|---|---|---|")
    for network in dict.fromkeys(r["network"] for r in rows):
        for merge in dict.fromkeys(r["merge"] for r in rows):
            lines.append(_line(network, merge, [r for r in rows if (r["network"], r["merge"]) == (network, merge)]))
    return lines


def main() -> None:
    """Measures, prints, fills."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--merges", default="calibrated,moments,ratio,delete")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    merges = given.merges.split(",")
    for widths, gamma in NETWORKS:
        for seed in range(given.seeds):
            model, start = first(widths, gamma, seed)
            for merge in merges:
                row = reduced(model, start, merge) | {"network": f"64-{'-'.join(map(str, widths))}-10", "seed": seed}
                print(row, flush=True)
                rows.append(row)
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "numpy": numpy.__version__}
    Path(__file__).with_suffix(".json").write_text(json.dumps({"host": host, "runs": rows}, indent=1) + "\n")
    lines = table(rows)
    print(*lines, sep="\n")
    fill("merges", lines)


if __name__ == "__main__":
    main()
