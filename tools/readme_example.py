"""The README's figures: the models of models/ condensed at several thresholds, scored on their test sets.

    pip install '.[plot]' && python tools/readme_example.py

Writes tools/readme_example.json (every number) and tools/readme_example.svg (the picture), and fills the README's table
and the example of docs/report.md.
Ratio merging (the paper's) and deletion remove the same channels, so they are compared at equal size. No fine-tuning.
Seed 0, `align=1`, so that sizes do not depend on the host.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import evaluate
import matplotlib
import onnx
import onnxruntime
from _marks import ROOT, fill
from _pictures import COLOURS, STYLE, save

from onnx_condense import Options, condense

matplotlib.use("svg")
from matplotlib import pyplot as plt

MODELS = ("surrogate_h2", "digits_conv_bn", "digits_mobilenet")
THRESHOLDS = (0.999, 0.99, 0.97, 0.95, 0.92, 0.88, 0.8, 0.7)
SHOWN = (0.999, 0.95, 0.88)
LOOKS = {"auto": ("o-", "auto, the default"), "ratio": ("s:", "ratio, the paper's"), "delete": ("x--", "delete")}


def score(model: onnx.ModelProto | Path, data: Path) -> float:
    """Accuracy, or R² for regression, on the saved test set."""
    with tempfile.TemporaryDirectory() as folder:
        path = model if isinstance(model, Path) else Path(folder) / "model.onnx"
        if not isinstance(model, Path):
            onnx.save(model, path)
        found = evaluate.evaluate(path, data)
    return float(found["accuracy"] if "accuracy" in found else found["r2"])


def measure(stem: str) -> dict[str, Any]:
    """One model: size and score at every threshold: by default, by the paper's ratio and by deletion."""
    path, data = ROOT / "models" / f"{stem}.onnx", ROOT / "models" / f"{stem}.test.npz"
    rows = []
    for merge in ("auto", "ratio", "delete"):
        for threshold in THRESHOLDS:
            done = condense(path, Options(threshold=threshold, merge=merge, align=1))
            before, after = done.report.input, done.report.output or done.report.input
            proof = done.report.verification
            assert proof is not None
            rows.append(
                {
                    "merge": merge,
                    "threshold": threshold,
                    "parameters": after.parameters / before.parameters,
                    "macs": after.macs / before.macs,
                    "surgery_error": proof.surgery_error,
                    "score": score(done.model, data),
                }
            )
    return {"model": stem, "score": score(path, data), "parameters": before.parameters, "rows": rows}


def draw(results: list[dict[str, Any]], target: Path) -> None:
    """Score over the share of parameters kept."""
    plt.rcParams.update(STYLE | {"svg.hashsalt": "onnx-condense"})
    figure, axes = plt.subplots(1, len(results), figsize=(10, 3.2), constrained_layout=True)
    for axis, result in zip(axes, results, strict=True):
        axis.axhline(result["score"], color="black", linewidth=0.8, linestyle=":", label="original")
        for number, (merge, (look, label)) in enumerate(LOOKS.items()):
            rows = [r for r in result["rows"] if r["merge"] == merge]
            sizes, scores = [100 * r["parameters"] for r in rows], [max(r["score"], 0) for r in rows]
            axis.plot(sizes, scores, look, color=COLOURS[number], label=label)
        axis.set_title(result["model"])
        axis.set_xlabel("parameters kept, %")
        axis.invert_xaxis()
    axes[0].set_ylabel("R² (surrogate), accuracy (digits)")
    curves, labels = axes[0].get_legend_handles_labels()
    figure.legend(curves, labels, loc="outside upper center", ncols=4)
    save(figure, target, "Score over the share of parameters kept")


def main() -> None:
    """Measures, draws, prints."""
    results = [measure(stem) for stem in MODELS]
    host = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "seed": 0,
    }
    folder = Path(__file__).parent
    (folder / "readme_example.json").write_text(json.dumps({"host": host, "results": results}, indent=1) + "\n")
    draw(results, folder / "readme_example.svg")
    lines = ["| model | score before | " + " | ".join(f"T = {t:g}: parameters kept, score" for t in SHOWN) + " |"]
    lines.append("|" + "---|" * (2 + len(SHOWN)))
    for result in results:
        found = {r["threshold"]: r for r in result["rows"] if r["merge"] == "auto"}
        cells = [f"{found[t]['parameters']:.1%}, {found[t]['score']:.4f}" for t in SHOWN]
        lines.append(f"| `{result['model']}` | {result['score']:.4f} | {' | '.join(cells)} |")
    print(*lines, sep="\n")
    fill("table", lines)
    fill("report", ["```json", example_report(), "```"])


def example_report() -> str:
    """The whole report of one real run, as --report writes it."""
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder) / "report.json", Path(folder) / "surrogate_h2.condensed.onnx"
        arguments = ["models/surrogate_h2.onnx", "--threshold", "0.95", "--report", str(report), "-o", str(output)]
        subprocess.run([sys.executable, "-m", "onnx_condense", *arguments, "--quiet"], cwd=ROOT, check=True)
        return report.read_text().replace(f"{folder}/", "models/").strip()


if __name__ == "__main__":
    main()
