"""Exact relations, constants and bounds against what onnxruntime computes; and relations of single steps by
formula.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.cases import CASES
from support.planted.cases import RELATIONS, Case, planted_rows
from support.planted.net import (
    Net,
    channel_values,
    joined,
    read_along,
    run,
    signed_feed,
    traced,
)

from onnx_condense.algebra.constants import bounds, constants
from onnx_condense.algebra.numbers import Numbers
from onnx_condense.algebra.relations import relate
from onnx_condense.algebra.signals import Signal
from onnx_condense.forms import members
from onnx_condense.forms.stack import Entered
from onnx_condense.merging.paths import paths
from onnx_condense.merging.twin import Twin
from onnx_condense.merging.weights import TwinWeights

Doubles = NDArray[np.float64]

TOLERANCE = 16 * float(np.finfo(np.float32).eps)


def pairs(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ordered pairs of different channels."""
    j, m = np.divmod(np.arange(n * n), n)
    return j[j != m], m[j != m]


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_what_is_said_of_channels_is_true(case: Case) -> None:
    """For every graph of the planted cases, on every path: relations said to be exact hold in onnxruntime,
    channels said to be constant are, and bounds hold. What products of data pair has no reader whose input tells it.
    """
    model = Entered(joined({relation: case.build(relation) for relation in RELATIONS})).into(members.enter).model
    trace = traced(model)
    twin, said = Twin(trace), 0
    read = [(group, path) for group in trace.groups for path in paths(trace, group) if path.side < 0]
    names = sorted({read_along(twin, path) for _, path in read})
    values = dict(zip(names, run(model, signed_feed(model), names) if names else [], strict=True))
    for group, path in read:
        along = channel_values(twin, path, values[read_along(twin, path)])
        for cell in group.cells:
            inside = np.flatnonzero(np.isin(path.units, cell) & (path.rank == 0))
            if len(inside):
                order = np.argsort(path.units[inside])
                said += check(twin, trace.signals[path.signal], group.units[cell], along[inside][order])
    of_pairs = case.op == "com.microsoft.RotaryEmbedding"  # two channels turn together, whatever relates single ones
    assert bool(said) == (bool(read) and (bool(case.passes) or of_pairs))


def check(twin: Twin, signal: Signal, units: NDArray[np.int64], values: Doubles) -> int:
    numbers = Numbers(TwinWeights(twin), twin.trace.unit_of, units, TOLERANCE)
    j, m = pairs(len(units))
    found = relate(signal, numbers, j, m)
    finite = np.asarray(np.isfinite(values).all(1))  # the logarithm of an opposite channel is none
    values = np.where(finite[:, None], values, 0)
    size = np.abs(values).max(1)
    ratio, constant = found.ratio[:, None], found.constant[:, None]
    with np.errstate(invalid="ignore"):
        error = np.abs(values[j] - (ratio * values[m] + constant)).max(1)
        limit = 1e-4 * (size[j] + np.abs(found.ratio) * size[m] + np.abs(found.constant) + 1e-6)
    assert np.asarray(error <= limit)[found.exact & finite[j] & finite[m]].all()
    known = constants(signal, numbers)
    fixed = np.isfinite(known)
    assert finite[fixed].all()
    np.testing.assert_allclose(values[fixed], np.broadcast_to(known[fixed, None], values[fixed].shape), atol=1e-5)
    low, high = bounds(signal, numbers)
    slack = 1e-5 * (1 + size)
    within = (values.min(1) >= low - slack) & (values.max(1) <= high + slack)
    assert np.asarray(within)[finite].all()
    return len(j)


def chain(relation: str, *steps: str) -> tuple[Numbers, Signal, Net]:
    """Gemm rows with a relation, behind activations."""
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    for step in steps:
        hidden = net.node(step, hidden)
    trace = traced(net.build(net.dense("consumer", hidden, net.normal(4, 8))))
    (group,) = trace.groups
    (path,) = paths(trace, group)
    return Numbers(TwinWeights(Twin(trace)), trace.unit_of, group.units, TOLERANCE), trace.signals[path.signal], net


COPY, MAIN = np.array([2]), np.array([0])
"""One copy and its original, see planted.MAINS."""


@pytest.mark.parametrize(
    ("relation", "steps", "ratio"),
    [
        ("scaled", (), 1.7),
        ("scaled", ("Relu",), 1.7),
        ("scaled", ("LeakyRelu", "Relu"), 1.7),
        ("negative", (), -0.6),
        ("negative", ("Abs",), 0.6),
        ("negative", ("Relu",), None),
        ("opposite", ("Tanh",), -1.0),
        ("opposite", ("Tanh", "Relu"), None),
        ("opposite", ("Tanh", "Abs"), 1.0),
        ("scaled", ("Tanh",), None),
        ("equal", ("Sigmoid",), 1.0),
        ("opposite", ("Sigmoid",), None),
        ("near", (), None),
    ],
)
def test_ratio(relation: str, steps: tuple[str, ...], ratio: float | None) -> None:
    numbers, signal, _ = chain(relation, *steps)
    found = relate(signal, numbers, COPY, MAIN)
    assert bool(found.exact[0]) == (ratio is not None)
    if ratio is not None:
        assert found.ratio[0] == pytest.approx(ratio, rel=1e-6)
        assert found.constant[0] == 0


@pytest.mark.parametrize("relation", ["equal", "opposite"])
def test_ratios_of_one_are_exactly_one(relation: str) -> None:
    """Rounding must not leave 0.99999994: the difference would accumulate."""
    numbers, signal, _ = chain(relation)
    assert abs(relate(signal, numbers, COPY, MAIN).ratio[0]) == 1.0


def test_a_shift_becomes_the_constant_on_a_linear_path_only() -> None:
    numbers, signal, _ = chain("shifted")
    found = relate(signal, numbers, COPY, MAIN)
    assert found.exact[0]
    assert found.constant[0] == pytest.approx(0.7, rel=1e-6)
    numbers, signal, _ = chain("shifted", "Relu")
    assert not relate(signal, numbers, COPY, MAIN).exact[0]


def late_affine(scale: Doubles, shift: Doubles) -> tuple[Numbers, Signal]:
    """Conv, Relu with copies scaled by 1.7, then scale · x + shift per channel, a 1x1 Conv."""
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 5, 5), *planted_rows(net, "scaled", 3, 3, 3))
    hidden = net.batchnorm(net.node("Relu", hidden), scale, shift, np.zeros(8), np.ones(8) - 1e-5)
    trace = traced(net.build(net.conv("consumer", hidden, net.normal(4, 8, 1, 1))))
    (group,) = trace.groups
    (path,) = paths(trace, group)
    return Numbers(TwinWeights(Twin(trace)), trace.unit_of, group.units, TOLERANCE), trace.signals[path.signal]


def test_affine_after_the_activation() -> None:
    """r = a_j · s / a_m and c_j = d_j - r · d_m."""
    rng = np.random.default_rng(3)
    scale, shift = rng.uniform(0.5, 2, 8), rng.standard_normal(8)
    numbers, signal = late_affine(scale, shift)
    found = relate(signal, numbers, COPY, MAIN)
    ratio = scale[2] * 1.7 / scale[0]
    assert found.exact[0]
    assert found.ratio[0] == pytest.approx(ratio, rel=1e-6)
    assert found.constant[0] == pytest.approx(shift[2] - ratio * shift[0], rel=1e-5, abs=1e-6)


def test_affine_that_erases_the_main_channel_is_not_exact() -> None:
    scale = np.ones(8)
    scale[0] = 0
    numbers, signal = late_affine(scale, np.zeros(8))
    assert not relate(signal, numbers, COPY, MAIN).exact[0]


def test_affine_that_erases_both_channels_makes_them_constants() -> None:
    scale = np.ones(8)
    scale[[0, 2]] = 0
    numbers, signal = late_affine(scale, np.arange(8.0))
    known = constants(signal, numbers)
    assert known[[0, 2]].tolist() == [0.0, 2.0]
    assert np.isnan(known[[1, 3, 4, 5, 6, 7]]).all()
