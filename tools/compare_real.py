"""Real networks of real size at equal parameters kept, without fine-tuning: ours, the paper's way, peers, plain SVD.

    pip install . --group peers && python tools/compare_real.py FOLDER MODELS [--nets lite0,voice] [--kept 0.9,0.8,0.7]
        [--only METHOD,...] [--samples 256] [--json OUT]

FOLDER has a scorer: `score.py NET MODEL ORIGINAL` prints a JSON line of what MODEL keeps on test inputs, and `score.py
NET --calibration N OUT.npz` writes N unlabelled inputs. MODELS holds NET.onnx. Methods without data: `ours`, `ratio`
(the paper's merge, under our budget), `onnxsim` (structured L2), `torch-pruning` (magnitude), `svd` (every Gemm, MatMul
and 1x1 Conv, one share of each). With --samples inputs: `ours-calibrated`, and `wanda` (onnxsim) with 64 of them.

A peer's row is the best of its settings, by the error of the outputs on calibration inputs. Each row is made
in a process of its own, whose CPU seconds and peak memory stand in it; a method that cannot take a network says why.
Rows that are in OUT stay.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))  # runpy does not

from _peers import Made, by_onnxsim, by_torch_pruning, tightest
from _svd import truncated

from onnx_condense import CondenseError, Options, condense
from onnx_condense.documents import write_atomically
from onnx_condense.operators.queries import count_parameters

WANDA, BATCH = 64, 8
"""Inputs that Wanda sees, as its paper's; and in one run of it."""

METHODS = ("ours", "ours-calibrated", "ratio", "onnxsim", "wanda", "torch-pruning", "svd")

SECONDS = 3600
"""Of the clock, for one row."""

Feed = dict[str, np.ndarray[Any, Any]]


def made(method: str, model: onnx.ModelProto, share: float, inputs: Feed) -> Iterator[Made]:
    """(setting, model) for every setting of a method at most so large."""
    target = share * count_parameters(model.graph)[0]
    options = Options(budget=("params", share), align=1)
    if method == "ours":
        yield "", condense(model, options).model
    elif method == "ours-calibrated":
        yield "", condense(model, replace(options, calibration=inputs)).model
    elif method == "ratio":
        yield "", condense(model, replace(options, merge="ratio")).model
    elif method == "onnxsim":
        yield from by_onnxsim(model, target, None)
    elif method == "wanda":
        batches = [{name: value[at : at + BATCH] for name, value in inputs.items()} for at in range(0, WANDA, BATCH)]
        yield from by_onnxsim(model, target, batches)
    elif method == "torch-pruning":
        yield from by_torch_pruning(model, target, None, ())
    else:
        found = tightest(lambda gone: truncated(model, 1 - gone), lambda one: count_parameters(one.graph)[0], target)
        if found is not None:
            yield "one share", found


def nearest(model: onnx.ModelProto, settings: Sequence[Made], inputs: Feed) -> Made:
    """The setting whose first output has the least error on some inputs."""
    expected = _outputs(model, inputs)
    return min(settings, key=lambda made: float(np.linalg.norm(_outputs(made[1], inputs) - expected)))


def _outputs(model: onnx.ModelProto, inputs: Feed) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0], dtype=np.float64)


def alone(method: str, model: Path, share: float, inputs: Path, out: Path) -> int:
    """Makes the model of one row; exit code 1 with a line where it cannot."""
    original = onnx.load(model)
    with np.load(inputs) as file:
        given = {name: file[name] for name in file.files}
    try:
        settings = list(made(method, original, share, given))
    except ImportError as error:
        print(f"{error}: pip install . --group peers")
        return 1
    except CondenseError as error:
        print(error)
        return 1
    if not settings:
        print("does not get so small")
        return 1
    few = {name: value[:WANDA] for name, value in given.items()}
    setting, best = nearest(original, settings, few) if len(settings) > 1 else settings[0]
    onnx.save(best, out)
    print(setting)
    return 0


def row(method: str, model: Path, share: float, inputs: Path, scorer: Path) -> dict[str, Any]:
    """What a method keeps of a network, and what it took."""
    told: dict[str, Any] = {"net": model.stem, "method": method, "kept": share}
    with tempfile.TemporaryDirectory() as folder:
        out, said = Path(folder) / "out.onnx", Path(folder) / "said"
        words = [__file__, "--alone", method, str(share), str(inputs), str(out), str(scorer.parent), str(model)]
        with said.open("w") as file:
            process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
        lines = said.read_text().strip().splitlines()
        last = lines[-1] if lines else ""
        if status or not out.exists():
            return told | {"skipped": last if status == 256 and last else "fails on this network"}
        sizes = [count_parameters(onnx.load(path).graph)[0] for path in (out, model)]
        took = {"cpu": round(used.ru_utime + used.ru_stime, 1), "peak_mb": used.ru_maxrss // 1024}
        return told | {"setting": last, "parameters": sizes[0] / sizes[1]} | took | score(scorer, model, out)


def score(scorer: Path, original: Path, model: Path) -> dict[str, float]:
    """What the scorer says of a model. Raises CalledProcessError where it fails."""
    words = [sys.executable, str(scorer), original.stem, str(model), str(original)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def rows(given: argparse.Namespace, known: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows that are not there yet."""
    scorer, there = given.folder / "score.py", {(one["net"], one["method"], one["kept"]) for one in known}
    with tempfile.TemporaryDirectory() as folder:
        for net in given.nets.split(","):
            model, inputs = given.models / f"{net}.onnx", Path(folder) / f"{net}.npz"
            words = [sys.executable, str(scorer), net, "--calibration", str(given.samples), str(inputs)]
            subprocess.run(words, check=True)
            if (net, "original", 1.0) not in there:
                yield {"net": net, "method": "original", "kept": 1.0, **score(scorer, model, model)}
            for share in map(float, given.kept.split(",")):
                for method in given.only.split(","):
                    if (net, method, share) not in there:
                        yield row(method, model, share, inputs, scorer)


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--nets", default="lite0,voice")
    parser.add_argument("--kept", default="0.9,0.8,0.7")
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        method, share, inputs, out = given.alone
        return alone(method, given.models, float(share), Path(inputs), Path(out))
    known = json.loads(given.json.read_text())["rows"] if given.json and given.json.exists() else []
    host = {"cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__, "samples": given.samples}
    for one in rows(given, known):
        known.append(one)
        print(json.dumps(one), flush=True)
        if given.json:
            write_atomically(given.json, (json.dumps({"host": host, "rows": known}, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
