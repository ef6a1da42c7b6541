"""Every document begins alike: its format and version, the tool that wrote it, and with which libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support import builders
from support.cli import Cli, Save, read
from support.scripted import PAPER, Scripted, go

import onnx_condense
from onnx_condense.auto.status import status
from onnx_condense.documents import head

HOST = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}


def begins(content: dict[str, Any], kind: str) -> bool:
    """Whether a document has the head of its kind, before anything else."""
    expected = head(kind, 1)
    assert expected["tool"] == {"name": "onnx-condense", "version": onnx_condense.__version__}
    assert expected["host"] == HOST
    assert list(content)[:4] == ["format", "version", "tool", "host"]
    assert content["host"].items() >= HOST.items()
    return {name: content[name] for name in ("format", "version", "tool")} == {
        "format": f"onnx-condense-{kind}",
        "version": 1,
        "tool": expected["tool"],
    }


def test_the_report_and_the_analysis(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.ok("m.onnx", "--report", "r.json")
    assert begins(read("r.json"), "report")
    cli.ok("inspect", "m.onnx", "--report", "i.json")
    assert begins(read("i.json"), "analysis")
    told = ["model", "groups", "refusals", "share", "axes", "pairs", "with_pairs", "whole", "heads", "ties", "streams"]
    assert list(read("i.json"))[4:] == told


def test_the_benchmark(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    content = json.loads(cli.ok("bench", "m.onnx", "--json", "--seconds", "0.1", "--threads", "1").out)
    assert begins(content, "benchmark")
    assert content["host"].keys() - HOST.keys() == {"machine", "system"}


def test_the_status_of_a_run(tmp_path: Path) -> None:
    go(tmp_path, Scripted(), PAPER)
    assert begins(status(tmp_path / "work"), "auto-status")


@pytest.mark.parametrize(("scale", "met"), [(1.0, True), (1.01, False), (np.nan, False)])
def test_the_verification(cli: Cli, save: Save, scale: float, met: bool) -> None:
    """It holds what the table shows; the exit code and the error are the same with and without --json."""
    for name, factor in (("a.onnx", 1.0), ("b.onnx", scale)):
        text = "g (float[N, 4] x) => (float[N, 4] y) { y = Mul(x, s) }"
        save(builders.build(text, {"s": np.array([factor], np.float32)}), name)
    plain, outcome = cli.run("verify", "a.onnx", "b.onnx"), cli.run("verify", "a.onnx", "b.onnx", "--json")
    assert (outcome.code, outcome.err) == (plain.code, plain.err) == (0 if met else 1, plain.err)
    content = json.loads(outcome.out)
    assert begins(content, "verification")
    found = onnx_condense.verify("a.onnx", "b.onnx")
    assert (content["tolerance"], content["met"], content["samples"]) == (1e-5, met, found.samples)
    (output,) = content["outputs"]
    assert output["name"] == "y"
    assert output["is_float"]
    assert output["relative_l2"] == (None if np.isnan(scale) else found.outputs[0].relative_l2)
    assert content["worst"] == output["relative_l2"]
