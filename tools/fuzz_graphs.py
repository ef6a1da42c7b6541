"""Condenses random graphs, and says which came out wrong.

    python tools/fuzz_graphs.py [--count 10000] [--seed 0] [--graphs NAME] [--by WHAT] [--nodes 10000] [--tries 120]
        [--json FILE] [--keep FOLDER]

Graph N is that of seed + N (tests/support/wider_graphs.py, or attention_graphs.py), with planted copies of channels.
Each is condensed by the command line in a process of its own, without loss and with random options (--by budget: to a
budget of them, and to one that copies alone can meet; --by calibration: with calibration inputs). Then, at three
sizes and on extreme inputs, the condensed model must compute what its expanded twin computes, what the plan says when
it is read and applied by other means (_replayed.py), and without loss what the original computes. What fails is made
smaller by leaving out nodes, and kept. Exit code 0 where nothing was wrong. A run with the --json of one that was
stopped goes on after its last graphs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from _forked import forked
from _fuzzed import Found, checked, options_of, smaller
from _fuzzed_budgets import budget_options, calibration_options, checked_budget, checked_calibration
from support import attention_graphs, wider_graphs

import onnx_condense.cli.condense  # noqa: F401  once for all children

MEGABYTES = 4096
GRAPHS = {"wider": wider_graphs.graph, "attention": attention_graphs.graph}
Options = tuple[str, ...]
WAYS: dict[str, tuple[Callable[[int], Options], Callable[[onnx.ModelProto, int, Path, Options], Found]]] = {
    "threshold": (options_of, checked),
    "budget": (budget_options, checked_budget),
    "calibration": (calibration_options, checked_calibration),
}
"""By what decides how much goes: random options of a seed, and what must hold."""


def tried(model: onnx.ModelProto, seed: int, seconds: float, by: str) -> dict[str, Any]:
    """What came of a graph in a child of ours."""
    options, check = WAYS[by]
    with tempfile.TemporaryDirectory() as name:
        found, problem = forked(lambda: check(model, seed, Path(name), options(seed)).to_json(), seconds, MEGABYTES)
    if problem:
        return {"outcomes": {}, "faults": {problem.partition(":")[0][:40]: problem}, "replayed": ""}
    return dict(found)


def kept(model: onnx.ModelProto, seed: int, faults: dict[str, str], given: argparse.Namespace) -> None:
    """Saves a failing graph, and one of fewer nodes that fails in the same way."""
    options = WAYS[given.by][0](seed)
    kinds = set(faults)

    def fails(candidate: onnx.ModelProto) -> bool:
        return bool(kinds & set(tried(candidate, seed, given.seconds, given.by)["faults"]))

    small = smaller(model, fails, given.tries)
    given.keep.mkdir(parents=True, exist_ok=True)
    onnx.save(model, given.keep / f"{seed}.onnx")
    onnx.save(small, given.keep / f"{seed}.small.onnx")
    told = {"options": options, "faults": faults, "smaller": tried(small, seed, given.seconds, given.by)["faults"]}
    (given.keep / f"{seed}.json").write_text(json.dumps(told, indent=1) + "\n")


def begun(given: argparse.Namespace) -> tuple[Counter[str], dict[int, Any]]:
    """Counts and faults of a run that was stopped. Raises SystemExit where it was one on other graphs."""
    if not (given.json and given.json.exists()):
        return Counter(), {}
    told = json.loads(given.json.read_text())
    if (told["graphs"], told.get("by", "threshold"), told["seed"]) != (given.graphs, given.by, given.seed):
        raise SystemExit(f"{given.json} is of other graphs: give another --json, or remove it")
    return Counter(told["counts"]), {int(seed): faults for seed, faults in told["failed"].items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graphs", choices=GRAPHS, default="wider")
    parser.add_argument("--by", choices=WAYS, default="threshold", help="what decides how much goes")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=10_000, help="larger graphs are left out")
    parser.add_argument("--seconds", type=float, default=120, help="of computing, for one graph")
    parser.add_argument("--tries", type=int, default=120, help="to make a failing graph smaller")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for graphs that failed")
    given = parser.parse_args(arguments)
    counts, failed = begun(given)
    for seed in range(given.seed + counts["graphs"], given.seed + given.count):
        model = GRAPHS[given.graphs](seed)
        counts["graphs"] += 1
        if len(model.graph.node) > given.nodes:
            counts["left out"] += 1
            continue
        found = tried(model, seed, given.seconds, given.by)
        for name, outcome in found["outcomes"].items():
            counts[f"{name}: {outcome if outcome in ('condensed', 'kept') else 'not proved'}"] += 1
        counts["not run by onnxruntime"] += not (found["outcomes"] or found["faults"])
        counts["plans read by other means"] += found["replayed"] == "yes"
        if found["faults"]:
            failed[seed] = found["faults"]
            print(f"{seed}: {found['faults']}", flush=True)
            if given.keep:
                kept(model, seed, found["faults"], given)
        if given.json and (counts["graphs"] % 50 == 0 or counts["graphs"] == given.count):
            told = {"graphs": given.graphs, "by": given.by, "seed": given.seed}
            told |= {"onnxruntime": onnxruntime.__version__}
            told |= {"counts": dict(counts), "failed": failed}
            given.json.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(counts, indent=1))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
