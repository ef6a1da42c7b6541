"""tools/compare_real.py on a small network with a scorer of its own; the plain SVD that it compares with."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.apart import apart
from support.planted.net import Net, assert_close

from onnx_condense.operators.queries import count_parameters

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
_svd: Any = importlib.import_module("_svd")
_compare: Any = importlib.import_module("compare_real")

SCORER = """
import sys
import numpy as np
if sys.argv[2] == "--calibration":
    np.savez(sys.argv[4], x=np.random.default_rng(0).standard_normal((int(sys.argv[3]), 24), dtype=np.float32))
else:
    print('{"score": 1.5}')
"""


def low_rank(net: Net, m: int, n: int, rank: int) -> np.ndarray[Any, Any]:
    return np.asarray(net.normal(m, rank) @ net.normal(rank, n), np.float32)


def network() -> onnx.ModelProto:
    """A Gemm of either layout, a MatMul, and a 1x1 Conv with strides, whose weights have rank 4."""
    net = Net(seed=3)
    data = net.node("Relu", net.dense("first", net.input("batch", 24), low_rank(net, 32, 24, 4), net.normal(32)))
    data = net.node("Relu", net.dense("second", data, low_rank(net, 36, 32, 4), net.normal(36), trans_b=False))
    data = net.matmul("third", data, low_rank(net, 72, 36, 4))
    maps = net.node("Reshape", data, net.ints(-1, 18, 2, 2))
    return net.build(
        net.conv("fourth", maps, low_rank(net, 20, 18, 4)[..., None, None], net.normal(20), strides=[2, 2])
    )


def test_the_factors_of_weights_of_low_rank_compute_the_same() -> None:
    model = network()
    made = _svd.truncated(model, 0.5)
    assert_close(model, made, 2e-6)
    assert count_parameters(made.graph)[0] < 0.6 * count_parameters(model.graph)[0]


def test_weights_of_which_no_rank_is_left_stay() -> None:
    model = network()
    assert list(_svd.truncated(model, 0.01).graph.node) == list(model.graph.node)


def test_a_row_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCORER)
    onnx.save(network(), tmp_path / "net.onnx")
    rows = tmp_path / "rows.json"
    there = [{"net": "net", "method": method, "kept": kept} for method, kept in (("original", 1.0), ("svd", 0.6))]
    rows.write_text(json.dumps({"rows": there}))
    options = ("--nets", "net", "--samples", "64", "--kept", "0.6", "--only", "svd,ours", "--json", rows)
    done = apart(tmp_path, tmp_path, *options, cwd=tmp_path, script=ROOT / "tools" / "compare_real.py")
    assert done.code == 0, done.err
    *known, made = json.loads(rows.read_text())["rows"]
    assert known == there
    assert (made["method"], made["score"]) == ("ours", 1.5)
    assert 0.5 < made["parameters"] <= 0.6


def test_a_method_that_cannot_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "inputs.npz", x=np.zeros((4, 24), np.float32))
    for method, said in (("ours", "smallest that can be reached"), ("svd", "so small")):
        out = tmp_path / "out.onnx"
        assert _compare.alone(method, tmp_path / "net.onnx", 0.01, tmp_path / "inputs.npz", out) == 1
        assert said in capsys.readouterr().out
        assert not out.exists()
