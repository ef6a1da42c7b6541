"""Is a condensed model ever slower? Condenses models at several thresholds and races each result with its original.

    python tools/never_slower.py FOLDER [--all] [--only GLOB ...] [--thresholds 0.95,0.88,0.7]
        [--depthwise joint,kernel] [--threads 1,2] [--batch 1,8] [--seconds 10] [--ensure-faster] [--json OUT]

FOLDER holds the models: those of MODELS, or with --all every .onnx file below it; a VGG-like network is made here.
Widths are aligned for this host (--align auto). A result whose interval lies above 1.02 is raced once more with three
times the time, because among hundreds of intervals a few miss by chance; it counts as slower when the second one does
too, and the exit code is 1. Results that equal one already measured are not measured again. With --json every row is
written as it comes, and rows that the file already holds are not measured again: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnx_condense import CondenseError, Options, condense
from onnx_condense.planning.alignment import block_width
from onnx_condense.timing.benchmark import Pace, batch_of, compare_latency, latency_feeds
from onnx_condense.timing.race import MedianInterval

MODELS = (
    "mobilenetv2_cifar10.onnx",
    "resnet56_cifar10.onnx",
    "mlp/mnist_256x4.onnx",
    "detection/blazeface_back.onnx",
    "detection/fastestdet_shufflenet.onnx",
    "detection/lw_person_detector.onnx",
    "detection/mnet_plate.onnx",
    "detection/ultraface_slim_320.onnx",
    "detection/yunet_s_dynamic.onnx",
    "mobile_dw/mediapipe_handlandmark.onnx",
    "segmentation/deeplab_v3_mbv2.onnx",
    "segmentation/selfie_seg_mbv3.onnx",
    "segmentation/unet_sentinel_cloud.onnx",
)
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 256, 256)
"""Output channels of 3x3 convolutions; 0 is a MaxPool."""


def vgg() -> onnx.ModelProto:
    """A VGG-like network on 32x32 images, whose channels lie around a few directions, at cosines from 0.6 to 1."""
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    source, before = "image", 3
    for layer, channels in enumerate(VGG):
        if not channels:
            nodes.append(helper.make_node("MaxPool", [source], [f"h{layer}"], kernel_shape=[2, 2], strides=[2, 2]))
        else:
            size = 9 * before
            centres = generator.standard_normal((channels * 3 // 4, size))[
                generator.integers(0, channels * 3 // 4, channels)
            ]
            away = generator.uniform(0, 0.8, (channels, 1)) * generator.standard_normal((channels, size))
            rows = ((centres + away) * np.sqrt(2 / size)).astype(np.float32).reshape(channels, before, 3, 3)
            weights.append(numpy_helper.from_array(rows, f"w{layer}"))
            nodes.append(helper.make_node("Conv", [source, f"w{layer}"], [f"z{layer}"], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"z{layer}"], [f"h{layer}"]))
            before = channels
        source = f"h{layer}"
    last = (generator.standard_normal((10, before)) / np.sqrt(before)).astype(np.float32)
    weights.append(numpy_helper.from_array(last, "w"))
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
    nodes.append(helper.make_node("Gemm", ["f", "w"], ["logits"], transB=1))
    images = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "vgg", [images], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


KEYS = ("model", "threshold", "depthwise", "ensure_faster", "threads", "batch")
"""What tells measurements apart."""


def race(original: Path, small: Path, batch: int, threads: int, seconds: float) -> dict[str, Any] | None:
    """The ratio of the latencies at one batch size; None where the model has another one, or does not run at it."""
    try:
        feeds = latency_feeds(onnx.load(original), batch, None, {}, 0)
    except CondenseError:
        return None
    found = compare_latency([original, small], feeds, threads, Pace(seconds))
    ratio = found.ratio(1)
    row: dict[str, Any] = {"ms": [1e3 * found.latency(0).value, 1e3 * found.latency(1).value]}
    return row | {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "verdict": ratio.verdict}


def rows_of(path: Path, name: str, given: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every measurement of one model that is not known yet; models of the same content are measured once."""
    done = {tuple(row.get(key) for key in KEYS) for row in known}
    seen = {row["content"]: f"{row['threshold']:g} {row['depthwise']}" for row in known if "content" in row}
    try:
        own = _own_batch(path)
    except CondenseError as error:
        yield {"model": name, "note": str(error)}
        return
    for threshold in given.thresholds:
        for depthwise in given.depthwise:
            case = {"model": name, "threshold": threshold, "depthwise": depthwise, "ensure_faster": given.ensure_faster}
            setups = [(threads, batch) for threads in given.threads for batch in ([own] if own else given.batch)]
            if all((*case.values(), *setup) in done for setup in setups):
                continue
            try:
                options = Options(threshold=threshold, depthwise=depthwise, ensure_faster=given.ensure_faster)
                result = condense(path, options)
            except CondenseError as error:
                yield case | {"note": str(error)}
                continue
            content = hashlib.sha256(result.model.graph.SerializeToString(deterministic=True)).hexdigest()
            label = f"{threshold:g} {depthwise}"
            if not result.changed or seen.setdefault(content, label) != label:
                yield case | {"note": f"the same as {seen[content]}" if result.changed else "nothing to condense"}
                continue
            kept = (result.report.output or result.report.input).parameters / result.report.input.parameters
            with tempfile.TemporaryDirectory() as folder:
                small = Path(folder) / "small.onnx"
                onnx.save(result.model, small)
                for threads, batch in setups:
                    key = {"threads": threads, "batch": batch}
                    if (*case.values(), *key.values()) in done:
                        continue
                    first = race(path, small, batch, threads, given.seconds)
                    if first is None:
                        yield case | key | {"note": "does not run at this batch"}
                        continue
                    if first["verdict"] == "slower":
                        again = race(path, small, batch, threads, 3 * given.seconds)
                        first = (again or first) | {"first": first}
                    yield case | key | {"parameters": kept, "content": content} | first


def _own_batch(path: Path) -> int | None:
    """The batch of a model that has a fixed one. Raises InputError where it does not run."""
    model = onnx.load(path)
    own = batch_of(latency_feeds(model, None, None, {}, 0)[0])
    try:
        latency_feeds(model, own + 1, None, {}, 0)
    except CondenseError:
        return own
    return None


def line(row: dict[str, Any]) -> str:
    """A table line."""
    cells = (row["model"], row.get("threshold", ""), row.get("depthwise", ""), row.get("threads", ""))
    head = "| " + " | ".join(map(str, (*cells, row.get("batch", "")))) + " | "
    if "note" in row:
        return head + f"{row['note']} | | |"
    interval = f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    stable = MedianInterval(row["ratio"], row["low"], row["high"]).stable
    wide = "" if stable else ", unstable"
    again = " (twice)" if "first" in row and row["verdict"] == "slower" else ""
    return head + f"{row['parameters']:.1%} | {row['ms'][0]:.3g} → {row['ms'][1]:.3g} | {interval}{wide}{again} |"


def main() -> int:
    """Runs everything and prints the table."""
    given = _arguments()
    host = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "onnxruntime": onnxruntime.__version__,
        "align": block_width(),
        "seconds": given.seconds,
    }
    rows: list[dict[str, Any]] = []
    if given.json and given.json.exists():
        rows = json.loads(given.json.read_text())["rows"]
    print(", ".join(f"{name} {value}" for name, value in host.items()) + "\n")
    print("| model | T | depthwise | threads | batch | parameters | ms | ratio (95 %) |\n|" + "---|" * 8)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "vgg.onnx"
        onnx.save(vgg(), made)
        found = sorted(given.folder.rglob("*.onnx")) if given.all else [given.folder / name for name in MODELS]
        named = [("vgg", made), *((str(path.relative_to(given.folder)), path) for path in found)]
        for name, path in named:
            if given.only and not any(fnmatch(name, pattern) for pattern in given.only):
                continue
            rows = [row for row in rows if row["model"] != name or "threads" in row]
            for row in rows_of(path, name, given, [row for row in rows if row["model"] == name]):
                rows.append(row)
                print(line(row), flush=True)
                if given.json:
                    given.json.write_text(json.dumps({"host": host, "rows": rows}, indent=1) + "\n")
    measured = [row for row in rows if "ratio" in row]
    slower = [row for row in measured if row["verdict"] == "slower"]
    faster = sum(row["verdict"] == "faster" for row in measured)
    print(f"\n{len(measured)} measured: {faster} faster, {len(slower)} slower")
    return int(bool(slower))


def _arguments() -> argparse.Namespace:
    def numbers(kind: type) -> Any:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description="is a condensed model ever slower?")
    add = parser.add_argument
    add("folder", type=Path)
    add("--all", action="store_true")
    add("--only", action="append", metavar="GLOB")
    add("--thresholds", type=numbers(float), default=[0.95, 0.88, 0.7])
    add("--depthwise", type=numbers(str), default=["joint", "kernel"])
    add("--threads", type=numbers(int), default=[1, 2])
    add("--batch", type=numbers(int), default=[1, 8])
    add("--seconds", type=float, default=10.0)
    add("--ensure-faster", action="store_true")
    add("--json", type=Path)
    given = parser.parse_args()
    if not given.folder.is_dir():
        sys.exit(f"{given.folder} is no folder of models")
    return given


if __name__ == "__main__":
    raise SystemExit(main())
