"""The rows of compare_accuracy.py for people: a line, the table of docs/results.md, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _marks import ROOT
from _pictures import COLOURS, STYLE, save

SHOWN = (0.9, 0.7, 0.5)
"""Shares kept, of the table."""

WANDA = 64
"""Images."""

METHODS = {
    "delete": "delete, L1",
    "merging": "neuron merging",
    "folding": "k-means folding, repaired",
    "onnxsim": "onnxsim 0.8, L2",
    "torch-pruning": "Torch-Pruning, L2",
    "svd": "truncated SVD",
    "ratio": "ours, ratio (the paper)",
    "moments": "ours, moments",
    "wanda": f"onnxsim 0.8, Wanda, {WANDA} images",
    "calibrated-64": "ours, calibrated, 64 images",
    "calibrated-256": "ours, calibrated, 256 images",
    "calibrated-1024": "ours, calibrated, 1,024 images",
}
CALIBRATED = ("wanda", "calibrated-64", "calibrated-256", "calibrated-1024")
Row = dict[str, Any]


def stored() -> list[Row]:
    """What tools/compare_accuracy_*.json hold, by model."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "tools").glob("compare_accuracy_*.json"))]


def line(row: Row) -> str:
    """One row, for people."""
    start = f"{METHODS[row['method']]:28} {row['kept']:4.0%}"
    if "skipped" in row:
        return f"{start}  skipped: {row['skipped']}"
    return (
        f"{start}  accuracy {row['accuracy']:.4f}  agreement {row['agreement']:.4f}  error {row['error']:.3f}  "
        f"parameters {row['parameters']:.4f}  macs {row['macs']:.4f}  {row['seconds']:.1f} s  ({row['setting']})"
    )


def draw(results: list[Row], target: Path) -> None:
    """Accuracy over parameters kept: a line of panels per model, data-free methods left, calibrated ones right.

    `moments` is in both, for comparison.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(STYLE | {"svg.hashsalt": "onnx-condense"})
    figure, panels = plt.subplots(
        len(results),
        2,
        figsize=(10, 3.6 * len(results)),
        sharex="all",
        sharey="row",
        squeeze=False,
        constrained_layout=True,
    )
    for line, result in zip(panels, results, strict=True):
        for axis, wanted in zip(line, (False, True), strict=True):
            axis.axhline(100 * result["accuracy"], color="black", linewidth=0.8, linestyle=":", label="original")
            for number, (method, label) in enumerate(METHODS.items()):
                rows = [r for r in result["rows"] if r["method"] == method and "skipped" not in r]
                if rows and ((method in CALIBRATED) is wanted or method == "moments"):
                    mine = label.startswith("ours")
                    axis.plot(
                        [100 * r["parameters"] for r in rows],
                        [100 * r["accuracy"] for r in rows],
                        color=COLOURS[number],
                        marker="o" if mine else "x",
                        linestyle="-" if mine else "--",
                        linewidth=1.8 if mine else 1.1,
                        markersize=4,
                        label=label,
                    )
            axis.set_title(f"{result['model']}: {'with calibration images' if wanted else 'without data'}")
            axis.set_xlabel("parameters kept, %")
            axis.xaxis.set_tick_params(labelbottom=True)
            axis.grid(color="0.92")
        line[0].set_ylabel("accuracy, %")
    panels[0, 0].invert_xaxis()
    shown = [axis.get_legend_handles_labels() for axis in panels.flat]
    named = {label: curve for curves, labels in shown for curve, label in zip(curves, labels, strict=True)}
    order = [label for label in ("original", *METHODS.values()) if label in named]
    figure.legend([named[label] for label in order], order, loc="outside upper center", ncols=4)
    save(figure, target, "Accuracy over the share of parameters kept")
    plt.close(figure)


def table(results: list[Row]) -> list[str]:
    """The table: accuracy of every method on every model at some sizes."""
    columns = [(result, share) for result in results for share in SHOWN]
    heads = [f"`{result['model']}`, {share:.0%}" for result, share in columns]
    lines = [f"| accuracy, %, of parameters kept | data | {' | '.join(heads)} |", "|" + "---|" * (2 + len(heads))]
    original = [f"{100 * result['accuracy']:.1f}" for result, _ in columns]
    lines.append(f"| original, 100% | | {' | '.join(original)} |")
    for method, label in METHODS.items():
        cells = []
        for result, share in columns:
            row = next((r for r in result["rows"] if (r["method"], r["kept"]) == (method, share)), {})
            cells.append(f"{100 * row['accuracy']:.1f}" if "accuracy" in row else "–")
        lines.append(f"| {label} | {'images' if method in CALIBRATED else 'none'} | {' | '.join(cells)} |")
    return lines
