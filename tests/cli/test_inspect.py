"""`onnx-condense inspect` as users run it."""

from __future__ import annotations

import re

import numpy as np
import onnx
from support import builders
from support.cli import Cli, Save, widths


def test_inspect_changes_nothing_and_shows_four_widths(cli: Cli, save: Save) -> None:
    save(cosines((0.9995, 0.96, 0.9, 0.8)))
    outcome = cli.ok("inspect", "m.onnx")
    assert not outcome.written
    for heading in ("0.999", "0.95", "0.88", "0.7"):
        assert heading in outcome.out
    row = next(line for line in outcome.out.splitlines() if "fc0" in line)
    assert re.findall(r"\d+\.?\d*", row.replace("fc0", ""))[:5] == ["8", "7", "6", "5", "4"], row


def test_inspect_agrees_with_condense(cli: Cli, save: Save) -> None:
    save(cosines((0.9995, 0.96, 0.9, 0.8)))
    for threshold, width in (("0.999", 7), ("0.95", 6), ("0.88", 5), ("0.7", 4)):
        cli.ok("m.onnx", "--threshold", threshold, "--report", "r.json", "--force")
        assert widths("r.json") == {"fc0": (8, width)}


def test_inspect_says_what_not_and_why(cli: Cli, save: Save) -> None:
    text = """g (float[N, 8] x) => (float[N, 3] y) {
        [fc0] z = Gemm<transB = 1>(x, w0)
        [mix] h = Softmax(z)
        [fc1] y = Gemm<transB = 1>(h, w1)
    }"""
    save(builders.build(text, {"w0": builders.random(8, 8), "w1": builders.random(3, 8)}))
    shown = cli.ok("inspect", "m.onnx").out
    rows = {name: [line for line in shown.splitlines() if name in line] for name in ("fc0", "fc1")}
    assert "mixes channels" in " ".join(rows["fc0"])
    assert "output" in " ".join(rows["fc1"])


def cosines(values: tuple[float, ...]) -> onnx.ModelProto:
    """A hidden layer of pairs with these cosines; pairs are orthogonal to each other."""
    size = 2 * len(values)
    rows = np.eye(size, dtype=np.float32)
    for pair, cosine in enumerate(values):
        rows[2 * pair + 1, 2 * pair : 2 * pair + 2] = cosine, np.sqrt(1 - cosine**2)
    return builders.head(rows)
