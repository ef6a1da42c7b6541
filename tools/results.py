"""Fills the tables of docs/results.md from the JSON files that the other tools wrote into tools/.

    python tools/results.py [--check]

--check writes nothing: exit code 1 where a table is not what the files say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _accuracy import stored
from _accuracy import table as accuracy
from _marks import ROOT, fill, filled
from auto_merges import table as merges
from backend_suite import FAULTS
from compare_labelled import CLASSES, averages, pairs

WIDE = 0.1
"""Width of an interval, relative to its lower end."""

SIZES = {"ours, no data": "what L2 keeps", "ours, 64": "what Wanda keeps", "ours, 256": "what Wanda keeps"}

REAL = ("compare_real", "compare_real_magika")
"""Files with rows of real networks."""

METHODS = {
    "ours": "ours, no data",
    "ours-calibrated": "ours, 256 inputs",
    "ratio": "the paper's merge, no data",
    "onnxsim": "onnxsim 0.8, L2, no data",
    "wanda": "onnxsim 0.8, Wanda, 64 inputs",
    "torch-pruning": "Torch-Pruning, L2, no data",
    "svd": "truncated SVD, no data",
}
"""Their methods, and what the table says."""

MEASURES = {"accuracy": 1, "equal_error_rate": 2, "spearman": 2, "perplexity": 1, "agreement": 1}
"""What a network is measured in, the first of them that it has, and how many digits are told."""


def content(name: str) -> Any:
    """A file of tools/."""
    return json.loads((ROOT / "tools" / f"{name}.json").read_text())


def lines_of(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]


def labelled() -> list[str]:
    """Points of accuracy that networks lose on average."""
    found = averages(pairs(content("compare_labelled")["rows"]))
    rows = [
        (SIZES[method], count, f"{CLASSES[method]}: {theirs:.1f}", f"{method}: {ours:.1f}")
        for method, count, theirs, ours in found
    ]
    return lines_of(("parameters", "networks", "points lost by onnxsim", "points lost by ours"), rows)


def real() -> list[str]:
    """What methods keep of real networks, in the measure of each; a dash where one cannot take it, or not so far."""
    rows = [row for name in REAL for row in content(name)["rows"]]
    places = list(dict.fromkeys((row["net"], row["kept"]) for row in rows if row["method"] != "original"))
    found = {(row["method"], row["net"], row["kept"]): row for row in rows}
    originals = [_kept(found["original", net, 1.0]) for net, _ in places]
    lines: list[Sequence[object]] = [("original", *originals)]
    for method, name in METHODS.items():
        known = [found.get((method, *place)) for place in places]
        lines.append((name, *("" if row is None else _kept(row) for row in known)))
    return lines_of(("", *(f"`{net}`, {kept:.0%}" for net, kept in places)), lines)


def _kept(row: Mapping[str, Any]) -> str:
    """The measure of a network; of sentences the cosine to the original's vectors, too."""
    if "skipped" in row:
        return "–"
    value = next(f"{row[name]:.{digits}f}" for name, digits in MEASURES.items() if name in row)
    return f"{value} ({row['cosine']:.3f})" if "spearman" in row and "cosine" in row else value


def races() -> list[str]:
    """How many condensed models are faster, and how many slower, than their originals."""
    names = {
        "never_slower": "as it comes",
        "never_slower_all": "as it comes, all models",
        "never_slower_ensured": "`--ensure-faster`",
    }
    return lines_of(
        ("options", "models", "measured", "faster", "slower", "highest lower end", f"intervals wider than {WIDE:.0%}"),
        [_raced(options, content(name)["rows"]) for name, options in names.items()],
    )


def _raced(options: str, rows: Sequence[Mapping[str, Any]]) -> tuple[object, ...]:
    measured = [row for row in rows if "ratio" in row]
    verdicts = [sum(row["verdict"] == verdict for row in measured) for verdict in ("faster", "slower")]
    wide = sum(row["high"] > (1 + WIDE) * row["low"] for row in measured)
    models = len({row["model"] for row in measured})
    return options, models, len(measured), *verdicts, f"{max(row['low'] for row in measured):.3f}", wide


def targets() -> list[str]:
    """Budgets of latency, and others beside them: what was kept, what a race said, accuracy where there are images.

    Equal: what budgets of a unit give at the first one's latency, between those that were measured.
    """
    rows = []
    for network in content("compare_targets")["networks"]:
        threads = network["threads"]
        setup = f"{network['model']}, batch {network['batch']}, {threads} thread{'s' * (threads > 1)}"
        setup += ", 256 images" if network.get("calibration") else ""
        for row in network["rows"]:
            ratio = f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            known = [found.get("accuracy") for found in (network["original"], row)]
            accuracy = " → ".join(f"{100 * one:.1f} %" for one in known if one is not None)
            left = (f"{100 * row[key]:.1f} %" for key in ("parameters", "macs"))
            equal = ", ".join(f"`{u}`: {_told(one)}" for u, one in row.get("equal", {}).items())
            rows.append((setup, f"`{row['budget']}`", ratio, *left, accuracy, equal, f"{row['load']:.0f}"))
    heads = ("network", "budget", "latency (95 %)", "parameters", "MACs", "accuracy", "others at equal latency", "load")
    return lines_of(heads, rows)


def _told(accuracy: float | None) -> str:
    return "not that fast or slow" if accuracy is None else f"{100 * accuracy:.1f} %"


def trials() -> list[str]:
    """How often the benchmark tells a model from one with more work, and not from its copy."""
    found = content("benchmark_trials")["trials"]
    rows = []
    for last in (trial for trial in found if "hits" in trial):
        same = [t for t in found if (t["kind"], t["layers"]) == (last["kind"], last["layers"])]
        first = min(t["layers"] for t in found if t["kind"] == last["kind"])
        rows.append(
            (f"{last['kind']}, {first} layers", last["layers"], last["wanted"], f"{last['hits']} of {len(same)}")
        )
    return lines_of(("model", "layers of the other", "right verdict", "given"), rows)


def seconds() -> list[str]:
    """What calibration takes, over samples and channels."""
    rows = [
        (row["model"], row["samples"], row["refitted"], *(f"{row[key]:.1f}" for key in ("plan", "calibrate", "wall")))
        for name in ("benchmark_calibration", "benchmark_calibration_chain")
        for row in content(name)["rows"]
    ]
    return lines_of(("model", "samples", "layers refitted", "plan, s", "calibrate, s", "whole run, s"), rows)


def depth() -> list[str]:
    """CPU seconds over the number of blocks, and what twice as many take."""
    rows = content("benchmark_depth")["rows"]
    blocks = sorted({row["blocks"] for row in rows})
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = {row["blocks"]: row for row in rows if row["kind"] == kind}
        seconds = [f"{mine[count]['cpu']:.1f}" if count in mine else "" for count in blocks]
        last = mine[max(mine)]
        half = mine[max(mine) // 2]
        found.append((f"`{kind}`", *seconds, f"{last['cpu'] / half['cpu']:.2f}", last["nodes"]))
    heads = (f"{count} blocks" for count in blocks)
    return lines_of(("network", *heads, "twice as many", "nodes"), found)


def large() -> list[str]:
    """What large models take, beside the floor."""
    rows = [
        (
            f"{row['model']}, {row['bytes'] / 1e9:.2f} GB",
            row["command"] if row["command"] in ("floor", "inspect") else f"`{row['command']}`",
            f"{row['written'] / 1e9:.2f}",
            f"{row['cpu'] + row['apart']:.0f}",
            f"{row['peak'] / 1e9:.2f}",
        )
        for row in content("benchmark_large")["rows"]
    ]
    heads = ("model", "command", "written, GB", "CPU, s", "peak, GB")
    return lines_of(heads, rows)


def tool() -> list[str]:
    """CPU seconds of whole runs beside the floor and peers, peaks, and the stages that took longest."""
    rows = []
    for row in content("benchmark_tool")["rows"]:
        least, ours = row["floor"], row["threshold"]
        seconds = [f"{row[kind]['cpu']:.1f}" if row.get(kind, {"code": 1})["code"] == 0 else "" for kind in TOOLS]
        stages, whole = ours["stages"], sum(ours["stages"].values())
        rows.append(
            (
                f"{row['model']} ({row['bytes'] / 1e6:.0f} MB)",
                *seconds,
                f"{ours['cpu'] / least['cpu']:.2f}",
                f"{least['peak'] / 1e9:.2f} / {ours['peak'] / 1e9:.2f}",
                ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in stages.items() if part),
            )
        )
    heads = ("floor, s", "`--threshold 0.88`, s", "`--lossless`, s", "onnxsim, s", "Torch-Pruning, s")
    return lines_of(("model", *heads, "ratio", "peaks of floor / run, GB", "stages"), rows)


TOOLS = ("floor", "threshold", "lossless", "onnxsim", "torch_pruning")

OUTCOMES = ("models", "condensed", "equal", "kept", "refused", "not proved")


def backend() -> list[str]:
    """What became of the models of the ONNX backend suite."""
    found = content("backend_suite")["counts"]
    rows = [
        (name, *(counts.get(outcome, 0) for outcome in OUTCOMES), sum(counts.get(fault, 0) for fault in FAULTS))
        for name, counts in found.items()
    ]
    return lines_of(("models, options", *OUTCOMES, "crashed, stuck, wrong, internal"), rows)


def graphs() -> list[str]:
    """What became of random graphs."""
    found = content("fuzz_graphs")
    rows = [(name, count) for name, count in found["counts"].items()]
    return lines_of(("random graphs", "number"), [*rows, ("wrong, crashed, stuck, internal", len(found["failed"]))])


TABLES: Mapping[str, Callable[[], list[str]]] = {
    "accuracy": lambda: accuracy(stored()),
    "labelled": labelled,
    "real": real,
    "races": races,
    "targets": targets,
    "trials": trials,
    "merges": lambda: merges(content("auto_merges")["runs"]),
    "seconds": seconds,
    "depth": depth,
    "large": large,
    "tool": tool,
    "backend": backend,
    "graphs": graphs,
}
"""Mark in docs/results.md -> its lines."""


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="the tables of docs/results.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table is stale")
    given = parser.parse_args()
    stale = [mark for mark, table in TABLES.items() if filled(mark) != table()]
    if given.check:
        print(f"stale: {', '.join(stale)}: python tools/results.py" if stale else "the tables are those of the files")
        return int(bool(stale))
    for mark in stale:
        fill(mark, TABLES[mark]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
