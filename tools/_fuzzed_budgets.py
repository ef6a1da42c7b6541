"""What must hold of a random graph condensed to a budget, or with calibration inputs: see tools/fuzz_graphs.py."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _forked import run
from _fuzzed import LOSSLESS, Found, compared, feeds, runs_at_all_sizes
from _outputs import differ, runner
from support.wider_graphs import SIZES, feed

INPUTS = "calibration.npz"
"""In options: the file of calibration inputs, which is written beside the model."""
SAMPLES = (1, 2, 5, 9, 30, 48, 70)
OFTEN = 5
"""One graph in so many is condensed twice, for the same bytes."""
LOSSLESS_CLOSE = 1e-3
"""Most that the outputs may lose where copies alone had to go."""


def budget_options(seed: int) -> tuple[str, ...]:
    """Random options of a run to a budget."""
    draw = random.Random(seed)
    unit = draw.choice(["params", "params", "macs", "macs", "error"])
    amount = draw.choice(["0", "0.001", "0.05", "0.5"] if unit == "error" else ["0.2", "0.5", "0.7", "0.85", "0.97"])
    merge = draw.choice([(), (), ("--merge", "moments"), ("--merge", "ratio"), ("--merge", "delete")])
    others = draw.choice([(), (), (), ("--widths-only",), ("--depthwise", "kernel"), ("--fold-batchnorm",)])
    return ("--budget", f"{unit}={amount}", *merge, *others, "--align", draw.choice(["1", "1", "4"]))


def calibration_options(seed: int) -> tuple[str, ...]:
    """Random options of a run with calibration inputs."""
    draw = random.Random(seed)
    other = ("--threshold", draw.choice(["0.5", "0.8"])), ("--tolerance", "0.1"), ("--sequential",), ()
    goal = draw.choice([budget_options(seed)[:2], budget_options(seed)[:2], *other])
    merge = draw.choice([(), ("--merge", "calibrated")])
    return (*goal, *merge, "--align", draw.choice(["1", "4"]), "--calibration", INPUTS)


def checked_budget(model: onnx.ModelProto, seed: int, folder: Path, options: tuple[str, ...]) -> Found:
    """Runs a graph to a budget, and to one that copies alone can meet, and checks all that must hold."""
    found = Found()
    if runs_at_all_sizes(model):
        source = _saved(model, folder)
        _checked(found, "budget", model, source, options, seed)
        unit = "macs" if "macs" in " ".join(options) else "params"
        _copies_first(found, model, source, unit, seed)
    return found


def checked_calibration(model: onnx.ModelProto, seed: int, folder: Path, options: tuple[str, ...]) -> Found:
    """Runs a graph with calibration inputs, and checks all that must hold."""
    found = Found()
    if runs_at_all_sizes(model):
        source = _saved(model, folder)
        inputs = source.with_name(INPUTS)
        np.savez(inputs, **feed(model, {**SIZES[seed % 3], "batch": SAMPLES[seed % len(SAMPLES)]}, seed))
        given = tuple(str(inputs) if option == INPUTS else option for option in options)
        _checked(found, "calibration", model, source, given, seed)
        _copies_first(found, model, source, "params", seed, "--calibration", str(inputs))
    return found


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    source = folder / "model.onnx"
    source.write_bytes(model.SerializeToString())
    return source


def _checked(
    found: Found, name: str, model: onnx.ModelProto, source: Path, options: tuple[str, ...], seed: int
) -> None:
    """As any run is; and that it keeps its promise, is finite, and comes out the same when it is run again."""
    report = source.with_name(f"{name}.report.json")
    compared(found, name, model, source, (*options, "--report", str(report)), seed)
    if found.outcomes.get(name) not in ("condensed", "kept"):
        return
    out = source.with_name(f"{name}.onnx")
    problem = promised(json.loads(report.read_text()), options) or _larger(model, onnx.load(out))
    if problem:
        found.faults[f"{name}, promise"] = problem
    if problem := _not_finite(model, out, seed):
        found.faults[f"{name}, finite"] = problem
    if seed % OFTEN == 0:
        again = source.with_name(f"{name}.again.onnx")
        plan = again.with_suffix(".json")
        run(source, "-o", again, "--plan", plan, "--quiet", "--force", *options)
        same = [
            one.read_bytes() == other.read_bytes() for one, other in ((out, again), (out.with_suffix(".json"), plan))
        ]
        if not all(same):
            found.faults[f"{name}, again"] = f"the same model: {same[0]}, the same plan: {same[1]}"


def promised(report: dict[str, Any], options: tuple[str, ...]) -> str:
    """What a report says beyond the budget of the options, or beyond the original."""
    before, after = report["input"], report["output"]
    goal = re.search(r"--budget (\w+)=(\S+)", " ".join(options))
    unit, amount = (goal[1], float(goal[2])) if goal else ("", 0.0)
    sizes = {"params": "parameters", "macs": "macs"}
    if unit in sizes and after[sizes[unit]] > amount * before[sizes[unit]] * (1 + 1e-9):
        return f"{after[sizes[unit]]} of {before[sizes[unit]]} {sizes[unit]} where {amount} is asked for"
    error = (report["verification"] or {}).get("approximation_error")
    if unit == "error" and error is not None and error > max(amount, 1e-5):
        return f"an error of {error}"
    if after["parameters"] > before["parameters"]:
        return f"{after['parameters']} parameters where the original has {before['parameters']}"
    return ""


def _larger(model: onnx.ModelProto, small: onnx.ModelProto) -> str:
    """Whether a model holds more numbers than the original."""
    counts = [sum(int(np.prod(t.dims)) for t in one.graph.initializer if t.data_type == 1) for one in (model, small)]
    return f"{counts[1]} floats where the original holds {counts[0]}" if counts[1] > counts[0] else ""


def _not_finite(model: onnx.ModelProto, out: Path, seed: int) -> str:
    """Where a condensed model's outputs are not finite while the original's are."""
    reference, small = runner(model), runner(onnx.load(out))
    for size, inputs, plain in feeds(model, seed):
        if plain is None and size != "huge":
            for a, b in zip(reference(inputs), small(inputs), strict=True):
                if a.dtype.kind == "f" and np.isfinite(a).all() and not np.isfinite(b).all():
                    return f"{size}: {int((~np.isfinite(b)).sum())} of {b.size} numbers are not finite"
    return ""


def _copies_first(found: Found, model: onnx.ModelProto, source: Path, unit: str, seed: int, *more: str) -> None:
    """A budget that a run without loss meets must lose nothing but by rounding."""
    report, out = source.with_name("lossless.report.json"), source.with_name("copies.onnx")
    done = run(source, "-o", out, "--quiet", "--force", *LOSSLESS, "--widths-only", "--report", report)
    if done.code:
        return
    told, counted = json.loads(report.read_text()), {"macs": "macs", "params": "parameters"}[unit]
    if told["output"][counted] >= told["input"][counted]:
        return
    budget = f"{unit}={told['output'][counted] / told['input'][counted] + 1e-9:.12f}"
    done = run(source, "-o", out, "--quiet", "--force", "--budget", budget, "--align", "1", *more)
    if done.code or done.fault:
        found.faults["copies, refused"] = f"{budget}: {done.fault or done.line}"
        return
    reference, small = runner(model), runner(onnx.load(out))
    for number, sizes in enumerate(SIZES):
        inputs = feed(model, sizes, seed + number)
        problem = differ(reference(inputs), small(inputs), LOSSLESS_CLOSE)
        if problem:
            found.faults.setdefault("copies, lost", f"{budget}, size {number}: {problem}")
