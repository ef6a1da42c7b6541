"""What follows from shapes alone: sizes of models that nobody wrote, and no graph that is read for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from support import vacuous
from support.builders import build, clustered, random
from support.cases import CASES
from support.planted.cases import Case
from support.planted.net import Net
from support.planted.quantized import integer_columns, integer_rows

from onnx_condense import Options, condense
from onnx_condense.merging.twin import Twin
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.facts import Facts, Tried
from onnx_condense.operators.queries import count_parameters
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import open_model
from onnx_condense.rewriting.checks import check_shapes, check_size
from onnx_condense.rewriting.shapes import shapes_of
from onnx_condense.rewriting.sizes import count_macs, parameters_of
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.trace import Trace
from onnx_condense.tracing.tracer import trace

MODELS = Path(__file__).parents[2] / "models"
OWN = tuple(sorted(path.name for path in MODELS.glob("*.onnx")))


def again(twin: Twin) -> Trace:
    """The trace of the model that is written for a twin."""
    facts, model = twin.trace.facts, write(twin, {}).traced
    return trace(Facts(model, import_graph(model), facts.feed, facts.others, facts.copies, Tried(facts.stuck)))


def assert_counted(twin: Twin) -> None:
    """Both numbers are those of the written model, which is traced again to count its multiplications."""
    assert parameters_of(twin) == count_parameters(write(twin, {}).model.graph)[0]
    assert count_macs(twin) == write(twin, {}).macs == count_macs(Twin(again(twin)))


def planned(model: onnx.ModelProto | Path, options: Options) -> Twin:
    opened = open_model(model, options)
    return Planner(opened.trace, opened.options, 1, opened.trace.groups).build().twin


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_planted_models_are_counted_as_they_are_written(case: Case) -> None:
    """Constants that meet no bias, private copies, weights that are written down: all of them count."""
    relation = next((r for r in ("shifted", "scaled") if r in case.passes), "equal")
    assert_counted(planned(case.build(relation), Options(lossless=True, align=1)))


def branched() -> onnx.ModelProto:
    """Two Gemms with copies between them in one branch of an If."""
    weights = {"w0": clustered(8, 6, 3, ratios=False), "w1": random(6, 8)}
    return build(
        """g (float[N, 6] x, bool c) => (float[N, 6] y) {
            y = If (c) <
                then_branch = t () => (float[N, 6] ty) {
                    a = Gemm<transB = 1>(x, w0)
                    r = Relu(a)
                    ty = Gemm<transB = 1>(r, w1)
                },
                else_branch = e () => (float[N, 6] ey) { ey = Neg(x) }
            >
        }""",
        weights,
    )


def quantized() -> onnx.ModelProto:
    """Two QLinearConv with copies between them."""
    net = Net(13)
    grid = net.constant(0.1), net.constant(np.array(120, dtype=np.uint8))
    fine = net.constant(0.02), net.constant(np.array(0, dtype=np.int8))
    rows, bias = integer_rows(net, "equal", 3, 1, 1)
    weights = (rows, 20 * bias), (integer_columns(net, "equal", 4, 1, 1), np.zeros(4, dtype=np.int32))
    data = net.node("QuantizeLinear", net.input("n", 3, 4, 4), *grid)
    for weight, offsets in weights:
        places = (*grid, net.constant(weight), *fine, *grid, net.constant(offsets.astype(np.int32)))
        data = net.node("QLinearConv", data, *places)
    return net.build(net.node("DequantizeLinear", data, *grid))


@pytest.mark.parametrize("make", [branched, quantized])
def test_forms_are_counted_as_they_are_left(make: Callable[[], onnx.ModelProto]) -> None:
    """In the form that is traced there are copies of bodies, and constants that stand for integers."""
    twin = planned(make(), Options(lossless=True, align=1))
    assert twin.plans
    written = write(twin, {})
    assert count_parameters(written.traced.graph) != count_parameters(written.model.graph)
    assert_counted(twin)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    "options", [Options(threshold=0.6), Options(threshold=0.8, fold_batchnorm=True)], ids=["plain", "folded"]
)
def test_models_are_counted_as_they_are_written(name: str, options: Options) -> None:
    twin = planned(MODELS / name, options)
    assert twin.plans
    assert_counted(twin)


def test_shapes_are_those_of_the_written_model() -> None:
    """Sizes and what is alive, against a trace of the small model."""
    twin = planned(MODELS / "digits_mobilenet.onnx", Options(threshold=0.6))
    shapes, found = shapes_of(twin), again(twin).facts.shapes
    assert shapes.smaller
    assert {name: found[name] for name in shapes.smaller} == shapes.smaller
    for name, kept in shapes.kept.items():
        assert kept.of(np.zeros(twin.trace.facts.shapes[name])).shape == found[name]


@pytest.mark.parametrize("budget", [None, ("params", 0.7), ("macs", 0.7)], ids=["threshold", "params", "macs"])
def test_a_graph_is_read_once_in_a_run(budget: tuple[str, float] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither checks of shapes nor counts, nor writing, turn a message into a graph again."""
    read, genuine = [], gs.import_onnx

    def counted(model: onnx.ModelProto) -> gs.Graph:
        read.append(len(model.graph.node))
        return genuine(model)

    monkeypatch.setattr(gs, "import_onnx", counted)
    result = condense(MODELS / "digits_mobilenet.onnx", Options(budget=budget))
    assert result.changed
    assert len(read) == 1


def test_checks_write_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes are numbers: a weight is not even sliced for them."""
    twin = planned(MODELS / "digits_mobilenet.onnx", Options(threshold=0.6))
    monkeypatch.setattr(onnx, "ModelProto", None)
    monkeypatch.setattr(gs, "import_onnx", None)
    fresh = Twin(twin.trace)
    fresh.alive = twin.alive
    check_shapes(fresh)
    check_size(fresh)
    assert count_macs(fresh) < count_macs(Twin(twin.trace))
    assert parameters_of(fresh) < parameters_of(Twin(twin.trace))


def test_shapes_are_computed_once_for_a_twin() -> None:
    twin = planned(MODELS / "digits_mobilenet.onnx", Options(threshold=0.6))
    shapes = shapes_of(twin)
    assert shapes_of(twin) is shapes
    twin.alive = np.ones_like(twin.alive)
    assert not shapes_of(twin).smaller


@pytest.mark.parametrize("model", [vacuous.maps, vacuous.sequences, vacuous.ragged])
def test_what_is_no_tensor_has_no_multiplications(model: Callable[[], onnx.ModelProto]) -> None:
    twin = planned(model(), Options(lossless=True, align=1))
    rows = twin.trace.facts.shapes["z"][0]
    assert count_macs(twin) == write(twin, {}).macs == rows * vacuous.WIDTH * (vacuous.FEATURES + vacuous.CLASSES)


@pytest.mark.parametrize(
    "tail",
    [
        "e = SequenceEmpty() s = SequenceInsert(e, z) y = SequenceAt(s, i)",
        "s = SequenceConstruct(z, z) t = SequenceErase(s, i) y = SequenceAt(t, i)",
        "s = SplitToSequence<axis = 0, keepdims = 0>(z) n = SequenceLength(s) f = Cast<to = 1>(n) y = Add(z, f)",
        "o = Optional(z) y = OptionalGetElement(o)",
    ],
)
def test_what_is_no_tensor_counts_nothing(tail: str) -> None:
    """Sequences and optionals have no shape."""
    weights = {"w": clustered(8, 5, 4), "v": random(3, 8), "i": np.array(0)}
    body = f"h = Gemm<transB = 1>(x, w) r = Relu(h) z = Gemm<transB = 1>(r, v) {tail}"
    twin = planned(build(f"g (float[N, 5] x) => (float[K, 3] y) {{ {body} }}", weights), Options(align=1))
    assert count_macs(twin) == write(twin, {}).macs > 0
    assert write(twin, {}).model.graph.initializer[0].dims[0] == 4
