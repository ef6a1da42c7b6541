"""Similarity and ratios of whole paths: the paper's formulas on residuals, series and gates, and the path's
own (M, c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.lossless import LOSSLESS
from support.planted.cases import EXACT, FULL, planted_rows
from support.planted.net import Net, traced, widths

from onnx_condense.merging.judging import judge
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Depthwise, Method, Options
from onnx_condense.pipeline import condense

Doubles = NDArray[np.float64]


def cosines(vectors: Doubles) -> Doubles:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def closeness(vectors: Doubles) -> Doubles:
    squares = (vectors**2).sum(1)
    return np.asarray(2 * vectors @ vectors.T / (squares[:, None] + squares))


def alike(model: onnx.ModelProto, depthwise: Depthwise = Depthwise.JOINT, method: Method = Method.RATIO) -> Doubles:
    trace = traced(model)
    (group,) = [g for g in trace.groups if "producer" in g.layers]
    ((found,),) = judge(Twin(trace), group, replace(MANNERS[method], depthwise=depthwise)).alike
    return found.table.astype(np.float64)


def assert_alike(found: Doubles, expected: Doubles) -> None:
    expected = expected.copy()
    np.fill_diagonal(expected, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def vectors(rows: NDArray[np.floating], bias: NDArray[np.floating]) -> Doubles:
    return np.hstack([rows.reshape(len(rows), -1), np.reshape(bias, (len(rows), -1))]).astype(np.float64)


def two_producers(join: str, after: str) -> tuple[onnx.ModelProto, list[Doubles]]:
    net = Net(seed=7)
    data = net.input("batch", 5)
    weights = [(net.normal(6, 5), net.normal(6)) for _ in range(2)]
    hidden = net.node(
        join, *(net.dense(name, data, *w) for name, w in zip(("producer", "other"), weights, strict=True))
    )
    model = net.build(net.dense("head", net.node(after, hidden), net.normal(4, 6)))
    return model, [vectors(*w) for w in weights]


def test_added_producers_are_judged_as_one_vector() -> None:
    model, (a, b) = two_producers("Add", "Relu")
    joined = np.hstack([a[:, :-1], b[:, :-1], a[:, -1:] + b[:, -1:]])
    assert_alike(alike(model), cosines(joined))


def test_subtracted_producers_count_negatively() -> None:
    model, (a, b) = two_producers("Sub", "Relu")
    joined = np.hstack([a[:, :-1], -b[:, :-1], a[:, -1:] - b[:, -1:]])
    assert_alike(alike(model), cosines(joined))


def test_multiplied_producers_are_judged_one_by_one() -> None:
    model, (a, b) = two_producers("Mul", "Identity")
    assert_alike(alike(model), np.minimum(np.abs(cosines(a)), np.abs(cosines(b))))


def test_a_gate_that_passed_a_sigmoid_must_be_equal() -> None:
    net = Net(seed=8)
    data = net.input("batch", 5)
    a, b = (net.normal(6, 5), net.normal(6)), (net.normal(6, 5), net.normal(6))
    gate = net.node("Sigmoid", net.dense("gate", data, *b))
    hidden = net.node("Mul", net.node("Relu", net.dense("producer", data, *a)), gate)
    model = net.build(net.dense("head", hidden, net.normal(4, 6)))
    assert_alike(alike(model), np.minimum(cosines(vectors(*a)), closeness(vectors(*b))))


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        ("Relu", cosines),
        ("Gelu", cosines),
        ("Identity", lambda v: np.abs(cosines(v))),
        ("Tanh", lambda v: np.abs(closeness(v))),
        ("Sigmoid", closeness),
    ],
)
def test_similarity_by_activation(function: str, formula: Callable[[Doubles], Doubles]) -> None:
    net = Net(opset=20, seed=9)
    rows, bias = net.normal(6, 5), net.normal(6)
    hidden = net.node(function, net.dense("producer", net.input("batch", 5), rows, bias))
    assert_alike(alike(net.build(net.dense("head", hidden, net.normal(4, 6)))), formula(vectors(rows, bias)))


def depthwise_block(bias: bool = True) -> tuple[onnx.ModelProto, dict[str, NDArray[np.floating]]]:
    """Expansion, BatchNormalization, Relu, depthwise, BatchNormalization, Relu, projection."""
    net = Net(seed=10)
    parts = {
        "rows": net.normal(6, 3, 1, 1),
        "taps": net.normal(6, 1, 3, 3),
        "scale": net.rng.uniform(0.5, 2, 6).astype(np.float32),
        "shift": net.normal(6) if bias else np.zeros(6, dtype=np.float32),
        "mean": np.zeros(6, dtype=np.float32),
        "var": net.rng.uniform(0.5, 2, 6).astype(np.float32),
    }
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), parts["rows"]))
    hidden = net.conv("depthwise", hidden, parts["taps"], group=6, pads=[1] * 4)
    hidden = net.batchnorm(hidden, parts["scale"], parts["shift"], parts["mean"], parts["var"])
    return net.build(net.conv("head", net.node("Relu", hidden), net.normal(4, 6, 1, 1))), parts


def folded_taps(parts: dict[str, NDArray[np.floating]]) -> Doubles:
    slope = parts["scale"] / np.sqrt(parts["var"].astype(np.float64) + 1e-5)
    return parts["taps"].reshape(6, -1) * slope[:, None]


def test_depthwise_joint_judges_every_stage() -> None:
    model, parts = depthwise_block()
    expand = vectors(parts["rows"], np.zeros(6))
    assert_alike(alike(model), np.minimum(cosines(expand), cosines(folded_taps(parts))))


def test_depthwise_constants_count_where_consumers_are_refitted() -> None:
    """They are measured by the size of what the taps multiply; without them taps must be alike, too."""
    model, parts = depthwise_block()
    expand = vectors(parts["rows"], np.zeros(6))
    kernel = np.hstack([folded_taps(parts), parts["shift"][:, None] / np.linalg.norm(expand, axis=1, keepdims=True)])
    expected = np.minimum.reduce([cosines(expand), cosines(kernel), cosines(folded_taps(parts))])
    assert_alike(alike(model, method=Method.MOMENTS), expected)


def test_depthwise_kernel_judges_the_taps_alone() -> None:
    """The paper's: the taps times the BatchNormalization scale, no bias, no expansion."""
    model, parts = depthwise_block()
    assert_alike(alike(model, Depthwise.KERNEL), cosines(folded_taps(parts)))


def test_norm_ratios_multiply_along_series() -> None:
    """An exact pair of ratios 1.5 in the expansion and 0.5 in the kernels merges with 0.75 (design, section
    2).
    """
    net = Net(seed=11)
    rows, taps, columns = net.normal(4, 3, 1, 1), net.normal(4, 1, 3, 3), net.normal(2, 4, 1, 1)
    rows[2], taps[2] = 1.5 * rows[0], 0.5 * taps[0]
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), rows))
    hidden = net.node("Relu", net.conv("depthwise", hidden, taps, group=4))
    model = net.build(net.conv("head", hidden, columns))
    result = condense(model, Options(threshold=0.999, align=1))
    (plan,) = result.plan.groups
    assert plan.main == (0, 1, 0, 3)
    assert plan.reads[0].ratio[2] == pytest.approx(0.75, rel=1e-6)
    head = next(t for t in result.model.graph.initializer if t.name == "head.weight")
    merged = columns[:, 0] + 0.75 * columns[:, 2]
    np.testing.assert_allclose(onnx.numpy_helper.to_array(head)[:, 0], merged, rtol=1e-5)


def test_an_affine_after_the_activation_gives_ratio_and_constant() -> None:
    """Conv, Relu, BatchNormalization, Conv with similar rows: r = a_j · s / a_m, c_j = d_j - r · d_m."""
    net = Net(seed=12)
    rows, bias = net.normal(3, 3, 3, 3), net.normal(3)
    rows[2], bias[2] = 2 * rows[0] + 0.05 * net.normal(3, 3, 3), 2 * bias[0]
    scale, shift = np.array([0.5, 1.0, 1.5]), np.array([0.3, 0.0, -0.4])
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), rows, bias))
    hidden = net.batchnorm(hidden, scale, shift, np.zeros(3), np.ones(3) - 1e-5)
    model = net.build(net.conv("head", hidden, net.normal(4, 3, 1, 1), net.normal(4)))
    (plan,) = condense(model, Options(threshold=0.9, align=1)).plan.groups
    j, m = (2, plan.main[2]) if plan.main[2] != 2 else (0, plan.main[0])
    assert sorted((j, m)) == [0, 2]
    norms = np.linalg.norm(vectors(rows, bias), axis=1)
    ratio = scale[j] / scale[m] * norms[j] / norms[m]
    assert plan.reads[0].ratio[j] == pytest.approx(ratio, rel=1e-5)
    assert plan.reads[0].constant[j] == pytest.approx(shift[j] - ratio * shift[m], rel=1e-4)


def test_each_path_has_its_own_ratio() -> None:
    """Two readers of a pre-activation stream, one behind an affine of its own."""
    net = Net(seed=13)
    rows = net.normal(4, 5)
    rows[3] = 2 * rows[1]
    stream = net.node("Relu", net.dense("producer", net.input("batch", 5), rows))
    scale = np.array([1.0, 2.0, 3.0, 4.0])
    behind = net.dense("b", net.node("Mul", stream, net.constant(scale)), net.normal(3, 4))
    model = net.build(net.dense("a", stream, net.normal(3, 4)), behind)
    (plan,) = condense(model, LOSSLESS).plan.groups
    found = {read.layer: read.ratio[3] if plan.main[3] == 1 else 1 / read.ratio[1] for read in plan.reads}
    assert found == {"a": pytest.approx(2, rel=1e-6), "b": pytest.approx(2 * 4 / 2, rel=1e-6)}


def test_a_sum_that_holds_a_branch_twice() -> None:
    """relu((h + c) + h + h): the same producer on both sides of an Add, on one side twice."""
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, "equal", 6))
    once = net.node("Add", hidden, net.constant(np.full(FULL, 0.5)))
    total = net.node("Relu", net.node("Add", net.node("Add", once, hidden), hidden))
    model = net.build(net.dense("consumer", total, net.normal(4, FULL)))
    assert widths(condense(model, Options(threshold=0.9, align=1)).model)["producer"] <= EXACT
