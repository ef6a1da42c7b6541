"""Which merge method reaches the target with the fewest training steps: the README's table on automatic reduction.

    python tools/auto_merges.py [--merges auto,ratio,delete] [--seeds 5]

64-128-64-10 networks on the digits of models/digits.npz, trained by tools/digits_trainer.py for 140 passes from small
weights (gamma = 1), then reduced until a quarter of the parameters is left, at most one point below the start (scores
are accuracies on the 450 images that no trainer sees; the loop chooses by them, so they are no test of the result).
Writes tools/auto_merges.json, with the steps of every run, and fills the README's table.
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
from digits_trainer import Digits, new
from readme_example import fill

from onnx_condense import Options
from onnx_condense.finetune import Settings, run

TARGET, LOST = 0.25, 0.01
WIDTHS, GAMMA = [128, 64], 1.0


def first(seed: int) -> tuple[onnx.ModelProto, float]:
    """A trained network and its accuracy."""
    trainer = Digits()
    model, _ = trainer.train(new(WIDTHS, GAMMA, seed), 100, 2e-3, 0)
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
    with tempfile.TemporaryDirectory() as folder:
        state = run(model, Digits(), Path(folder) / "work", settings, Options(merge=merge, align=1))
    result = state.result
    reached = state.reason == "until" and result is not None
    kept = result.parameters / state.start.parameters if result is not None else 1.0
    score = result.score if result is not None else None
    seconds = round(time.perf_counter() - began, 1)
    numbers = {"steps": state.total_steps, "rounds": len(state.rows), "kept": kept, "score": score, "start": start}
    return {"merge": merge, "reached": reached, "seconds": seconds} | numbers


def main() -> None:
    """Measures, prints, fills."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--merges", default="auto,ratio,delete")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    for seed in range(given.seeds):
        model, start = first(seed)
        rows += [reduced(model, start, merge) | {"seed": seed} for merge in given.merges.split(",")]
        print(*(f"{r['merge']} {r['steps']} steps, {r['kept']:.1%}, {r['score']:.4f}" for r in rows[-3:]), sep="; ")
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "numpy": numpy.__version__}
    Path(__file__).with_suffix(".json").write_text(json.dumps({"host": host, "runs": rows}, indent=1) + "\n")
    lines = ["| `--merge` | runs that reached it | training steps, median (all) | parameters kept | points lost |"]
    lines.append("|---|---|---|---|---|")
    for merge in given.merges.split(","):
        mine = [r for r in rows if r["merge"] == merge]
        steps = [r["steps"] for r in mine]
        lost = statistics.median(100 * (r["start"] - r["score"]) for r in mine)
        cells = [f"{sum(r['reached'] for r in mine)} of {len(mine)}"]
        cells.append(f"{statistics.median(steps):g} ({', '.join(map(str, sorted(steps)))})")
        cells += [f"{statistics.median(r['kept'] for r in mine):.1%}", f"{lost:+.1f}"]
        lines.append(f"| `{merge}` | {' | '.join(cells)} |")
    print(*lines, sep="\n")
    fill("merges", lines)


if __name__ == "__main__":
    main()
