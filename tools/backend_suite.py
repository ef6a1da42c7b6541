"""Runs the command line on every case of the ONNX backend suite, and on models made of it that hold copies.

    python tools/backend_suite.py [--only GLOB] [--every N] [--seconds 120] [--rows FILE] [--json FILE] [--keep FOLDER]

Each case as it is; with all inputs but one frozen in as initializers; with copies planted in every weight; and between
two layers, the first of which makes copies. Each is condensed without loss, on the case's own inputs where it has them,
and at the paper's threshold on generated ones, in a process apart. The result without loss must give the outputs
of the model that it was made of. What takes that process down goes once more through the whole program, which guards
itself. Exit code 0 where nothing crashed, was wrong, got stuck, or was an internal error; the folder of --keep gets the
models where something was. A run with the --rows of one that was stopped goes on after its last case.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from _backend_cases import Case, cases, variants
from _forked import Ran, forked, run, run_apart
from _outputs import differ, runner

import onnx_condense.cli.condense  # noqa: F401  once for all children

OPTIONS = {"lossless": ("--lossless", "--align", "1"), "default": ("--threshold", "0.88")}
FAULTS = ("crashed", "stuck", "internal", "wrong")
TOGETHER = 16
"""Cases whose models one child goes through: what is set up once takes longer than a model."""


def condensed(case: Case, folder: Path, program: Callable[..., Ran] = run) -> dict[str, Any]:
    """What came of a case: an outcome for each set of options, with a line where it was refused."""
    source, given = folder / "model.onnx", folder / "inputs.npz"
    source.write_bytes(case.model.SerializeToString())
    known = bool(case.feed) and len(case.feed) == len(_asked(case.model))
    np.savez(given, **{name: np.atleast_1d(value) for name, value in case.feed.items()})
    found = {}
    for name, options in OPTIONS.items():
        if name == "default" and case.variant == "frozen" and found["lossless"][0] == "kept":
            continue  # one node, which makes its outputs
        data = ("--data", str(given)) if known and name == "lossless" else ()
        out = folder / f"{name}.onnx"
        found[name] = _outcome(case, source, out, name, program(source, "-o", out, "--quiet", *options, *data))
    return found


def _outcome(case: Case, source: Path, out: Path, name: str, done: Ran) -> tuple[str, str]:
    """(outcome, the line that tells more)."""
    if done.fault:
        return "internal", done.fault
    if "please report" in done.line:
        return "wrong", done.line
    if done.code:
        return ("refused" if done.code == 2 else "not proved"), done.line
    if out.read_bytes() == source.read_bytes():
        return "kept", ""
    result = onnx.load(out)
    if name != "lossless" or len(case.feed) < len(_asked(case.model)):
        return "condensed", ""
    wrong = differ(runner(case.model)(case.feed), runner(result)(case.feed))
    return ("wrong", wrong) if wrong else ("condensed", "equal")


def _asked(model: onnx.ModelProto) -> set[str]:
    return {port.name for port in model.graph.input} - {tensor.name for tensor in model.graph.initializer}


def kind_of(line: str) -> str:
    """A line without what is different in each model: names, paths, numbers, and what onnxruntime says."""
    line = re.sub(r"(onnxruntime cannot \w+ the model).*", r"\1", line)
    line = re.sub(r" \(inputs .*|(?<=input) \S+(?= is)|(?<=for) \S+(?= has)", "", line)
    line = re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|\S*\d\S*", "…", line)
    return line.split(":")[0][:100].strip()


def tried(models: list[Case], seconds: float, megabytes: int) -> list[dict[str, Any]]:
    """The outcomes of models in a child of ours; of halves of them where that does not come to its end."""
    found, problem = _together(models, seconds, megabytes, run)
    if problem and len(models) > 1:
        half = len(models) // 2
        return tried(models[:half], seconds, megabytes) + tried(models[half:], seconds, megabytes)
    if problem.startswith("crashed"):
        found, problem = _together(models, seconds, megabytes, run_apart)
    if not problem:
        return found
    fault = problem.partition(":")[0]
    return [dict.fromkeys(OPTIONS, (fault if fault in FAULTS else "internal", problem))]


def _together(
    models: list[Case], seconds: float, megabytes: int, program: Callable[..., Ran]
) -> tuple[list[dict[str, Any]], str]:
    """(outcomes of models in one child, how it ended where not well)."""

    def work() -> list[dict[str, Any]]:
        return [condensed(model, Path(name, str(number)), program) for number, model in enumerate(models)]

    with tempfile.TemporaryDirectory() as name:
        for number in range(len(models)):
            Path(name, str(number)).mkdir()
        found, problem = forked(work, seconds, megabytes)
    return list(found or ()), problem


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by variant and options, and why models were refused."""
    counts: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for row in rows:
        for options, (outcome, line) in row["outcomes"].items():
            counts.setdefault(f"{row['variant']}, {options}", Counter()).update(
                ["models", outcome, *(["equal"] if line == "equal" else [])]
            )
            if outcome in ("refused", "not proved"):
                reasons[f"{outcome}: {kind_of(line)}"] += 1
    return {"counts": {name: dict(found) for name, found in counts.items()}, "reasons": dict(reasons.most_common())}


def document(rows: list[dict[str, Any]], suite: int) -> str:
    """What is kept of a run over so many cases."""
    told = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "cases": suite, **summary(rows)}
    told["faults"] = [row for row in rows if faults(row)]
    return json.dumps(told, indent=1) + "\n"


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", help="cases whose name fits")
    parser.add_argument("--every", type=int, default=1, help="every n-th case")
    parser.add_argument("--seconds", type=float, default=120, help="of computing, for one child")
    parser.add_argument("--megabytes", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="the outcomes, a line for each case; those in it are not run again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for models where something was wrong")
    given = parser.parse_args()
    chosen = [case for case in cases() if fnmatch(case.name, given.only)][:: given.every]
    done = known(given.rows)
    gc.freeze()  # children do not go through what they share
    rows: list[dict[str, Any]] = []
    for part in parts(chosen):
        new = ran([case for case in part if case.name not in done], given)
        if given.rows:
            with given.rows.open("a") as file:
                file.writelines(json.dumps({"case": name, "rows": found}) + "\n" for name, found in new.items())
        done |= new
        rows += [row for case in part for row in done[case.name]]
        if given.json:
            given.json.write_text(document(rows, sum(row["variant"] == "as it is" for row in rows)))
    print(json.dumps(summary(rows)["counts"], indent=1))
    return int(any(map(faults, rows)))


def parts(chosen: list[Case]) -> Iterator[list[Case]]:
    """Cases whose models go through one child: networks, which take long, each through one of its own."""
    networks = [case for case in chosen if case.name.startswith("light/")]
    small = [case for case in chosen if not case.name.startswith("light/")]
    for start in range(0, len(small), TOGETHER):
        yield small[start : start + TOGETHER]
    yield from ([network] for network in networks)


def known(path: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Case -> its rows, of a run before."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    return {row["case"]: row["rows"] for row in map(json.loads, lines)}


def ran(chosen: list[Case], given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Case -> a row for each model made of it; says what was wrong, and keeps such models."""
    models = [(case.name, model) for case in chosen for model in variants(case, given.seed)]
    outcomes = tried([model for _, model in models], given.seconds, given.megabytes) if models else []
    rows: dict[str, list[dict[str, Any]]] = {case.name: [] for case in chosen}
    for (name, model), found in zip(models, outcomes, strict=True):
        row = {"case": model.name, "variant": model.variant, "outcomes": found}
        rows[name].append(row)
        if faults(row):
            print(f"{model.name}: {faults(row)}", flush=True)
            if given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                onnx.save(model.model, given.keep / f"{model.name.replace('/', '.')}.onnx")
    return rows


def faults(row: dict[str, Any]) -> dict[str, Any]:
    """Options -> what was wrong."""
    return {options: outcome for options, outcome in row["outcomes"].items() if outcome[0] in FAULTS}


if __name__ == "__main__":
    sys.exit(main())
