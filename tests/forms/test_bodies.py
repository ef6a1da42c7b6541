"""If, Loop and Scan: what lies inside a body alone is condensed there, everything else stays, with a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from support.builders import build, clustered, random
from support.lossless import LOSSLESS
from support.planted.net import run

import onnx_condense as oc
from onnx_condense.forms import bodies
from onnx_condense.model import runtime
from onnx_condense.model.protos import serialize
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.reasons import Reason
from onnx_condense.prepare import open_model
from onnx_condense.proving.surgery import bounded_outputs
from onnx_condense.tracing.trace import Trace

Array = NDArray[np.float32]

ROWS = clustered(8, 7, 5)
WEIGHTS = {
    "w0": ROWS[:, :6].copy(),
    "b0": ROWS[:, 6].copy(),
    "w1": random(6, 8, scale=0.3),
    "v0": clustered(8, 6, 3, ratios=False),
    "v1": random(6, 8, seed=1),
    "square": random(6, 6, seed=2),
}


def chain(first: str = "w0", second: str = "w1", source: str = "x", out: str = "y", stem: str = "a") -> str:
    """Two Gemms with 8 units between, of which 5 differ (3 in v0)."""
    return f"""[{first}_layer] {stem} = Gemm<transB = 1>({source}, {first})
        {stem}r = Relu({stem})
        [{second}_layer] {out} = Gemm<transB = 1>({stem}r, {second})"""


def branches(
    then: str, other: str, before: str = "h = Tanh(x)", after: str = "", rows: str = "N", check: bool = True
) -> onnx.ModelProto:
    """A model with one If, both branches of which make [N, 6] from h."""
    return build(
        f"""g (float[{rows}, 6] x, bool c) => (float[{rows}, 6] y) {{
            {before}
            [branch] {"i" if after else "y"} = If (c) <
                then_branch = t () => (float[{rows}, 6] ty) {{ {then} }},
                else_branch = e () => (float[{rows}, 6] ey) {{ {other} }}
            >
            {after}
        }}""",
        WEIGHTS,
    )


def groups(result: oc.Result) -> dict[str, tuple[int, int]]:
    return {g.layers[0]: (g.width_before, g.width_after) for g in result.report.groups}


def assert_same(model: onnx.ModelProto, result: oc.Result, **feed: Array | bool) -> None:
    onnx.checker.check_model(result.model, full_check=True)
    arrays = {name: np.asarray(value) for name, value in feed.items()}
    for a, b in zip(run(model, arrays), run(result.model, arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def reasons(model: onnx.ModelProto) -> dict[str, str]:
    return {layer: r.reason for r in oc.analyze(model).refusals for layer in r.layers}


@pytest.mark.parametrize("names", ["different names", "the same names"])
def test_both_branches(names: str) -> None:
    model = branches(chain(source="h", out="ty"), chain("v0", "v1", "h", "ey", "a" if names[0] == "t" else "b"))
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0_layer": (8, 5), "v0_layer": (8, 3)}
    for condition in (True, False):
        assert_same(model, result, x=random(4, 6), c=condition)
    (holder,) = (n for n in result.model.graph.node if n.op_type == "If")
    assert [n.output[0] for n in holder.attribute[0].g.node] == ["a", "ar", "ty"], "tensors keep their names"
    assert {"w0", "w1", "v0", "v1"}.isdisjoint(t.name for t in result.model.graph.initializer), "old weights go"
    assert serialize(oc.rewrite(model, result.plan)) == serialize(result.model)


def test_a_branch_that_does_not_shrink_is_left_alone() -> None:
    model = branches(chain(source="h", out="ty"), "k = Gemm<transB = 1>(h, v0) ey = Gemm<transB = 1>(k, v1)")
    result = oc.condense(model, oc.Options(lossless=True, align=1, exclude=("v0*",)))
    before, after = (
        next(a.g for n in m.graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch")
        for m in (model, result.model)
    )
    assert serialize_graph(before) == serialize_graph(after)
    assert groups(result)["w0_layer"] == (8, 5)


def serialize_graph(graph: onnx.GraphProto) -> bytes:
    return bytes(graph.SerializeToString(deterministic=True))


def test_weights_inside_the_body() -> None:
    """As initializers of the body, and as Constants in it."""
    model = branches(chain(source="h", out="ty"), chain("v0", "v1", "h", "ey", "b"))
    for attribute in next(n for n in model.graph.node if n.op_type == "If").attribute:
        for tensor in [t for t in model.graph.initializer if t.name[0] == ("w" if "then" in attribute.name else "v")]:
            model.graph.initializer.remove(tensor)
            if attribute.name == "then_branch":
                attribute.g.initializer.append(tensor)
            else:
                attribute.g.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0_layer": (8, 5), "v0_layer": (8, 3)}
    for condition in (True, False):
        assert_same(model, result, x=random(4, 6), c=condition)
    assert not [t for t in result.model.graph.initializer if t.name.startswith("branch")]
    assert result.report.output is not None
    assert result.report.output.parameters == result.report.input.parameters - 3 * 12 - 5 * 12


def test_a_branch_inside_a_branch() -> None:
    inner = f"""k = Relu(h)
        [inner] ty = If (c) <
            then_branch = t2 () => (float[N, 6] ty2) {{ {chain(source="k", out="ty2")} }},
            else_branch = e2 () => (float[N, 6] ey2) {{ ey2 = Identity(k) }}
        >"""
    model = branches(inner, "ey = Identity(h)")
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0_layer": (8, 5)}
    for condition in (True, False):
        assert_same(model, result, x=random(4, 6), c=condition)


def test_what_branches_read_is_condensed_and_what_they_give_stays() -> None:
    """`a` is made outside and read inside; `i` is made inside and read outside."""
    model = branches(
        "ty = Gemm<transB = 1>(a, w1)",
        "ey = Gemm<transB = 1>(a, v1)",
        before="[outer] m = Gemm<transB = 1>(x, w0, b0) a = Relu(m)",
        after="[last] y = Gemm<transB = 1>(i, square)",
    )
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"outer": (8, 5)}
    found = reasons(model)
    assert found["w1"] == found["v1"] == Reason.OUTPUT_OF_BODY.value
    for condition in (True, False):
        assert_same(model, result, x=random(4, 6), c=condition)


@pytest.mark.parametrize("options", [oc.Options(threshold=0.8, align=1), oc.Options(budget=("params", 0.6), align=1)])
def test_what_branches_read_is_condensed_with_loss(options: oc.Options) -> None:
    model = branches(
        "ty = Gemm<transB = 1>(a, w1)",
        f"{chain('v0', 'v1', 'h', 'k', 'b')} u = Gemm<transB = 1>(a, w1) ey = Add(k, u)",
        before="h = Tanh(x) [outer] m = Gemm<transB = 1>(x, w0, b0) a = Relu(m)",
    )
    result = oc.condense(model, options)
    assert groups(result)["outer"][1] <= 5
    replayed = oc.condense(model, options, replay=result.plan)
    assert serialize(replayed.model) == serialize(result.model)
    onnx.checker.check_model(result.model, full_check=True)
    for condition in (True, False):
        assert len(run(result.model, {"x": random(4, 6), "c": np.array(condition)})[0]) == 4


READERS = {
    "without weights": "t = Slice(a, zero, six, one)",
    "that measures": "t0 = Gemm<transB = 1>(a, w1) n = Shape(a) w = Gather(n, one) f = Cast<to = 1>(w) t = Mul(t0, f)",
    "in a body inside": "z = Gemm<transB = 1>(h, square) t1 = If (c) <"
    " then_branch = t2 () => (float[N, 6] ty2) { ty2 = Gemm<transB = 1>(a, w1) },"
    " else_branch = e2 () => (float[N, 6] ey2) { ey2 = Gemm<transB = 1>(a, v1) } > t = Add(z, t1)",
    "in a body inside without weights": "z = Gemm<transB = 1>(h, square) t1 = If (c) <"
    " then_branch = t2 () => (float[N, 6] ty2) { ty2 = Gemm<transB = 1>(a, w1) },"
    " else_branch = e2 () => (float[N, 6] ey2) { ey2 = Slice(a, zero, six, one) } > t = Add(z, t1)",
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_in_bodies(reader: str) -> None:
    """Channels stay that a body reads of which there is no copy; a number that counts them is written down."""
    constants = (
        "zero = Constant<value_ints = [0]>() one = Constant<value_ints = [1]>() six = Constant<value_ints = [6]>()"
    )
    model = branches(
        "ty = Gemm<transB = 1>(a, w1)",
        f"{READERS[reader]} ey = Tanh(t)",
        before=f"h = Tanh(x) {constants}[outer] m = Gemm<transB = 1>(x, w0, b0) a = Relu(m)",
    )
    result = oc.condense(model, LOSSLESS)
    stays = "without" in reader
    assert groups(result).get("outer", (8, 8)) == (8, 8 if stays else 5)
    assert ("outer" in reasons(model)) == stays
    for condition in (True, False):
        assert_same(model, result, x=random(4, 6), c=condition)


def test_readers_in_loops() -> None:
    body = "g = Gemm<transB = 1>(h, square) k = Gemm<transB = 1>(a, w1) h2 = Add(g, k)"
    model = loop(body, before="[outer] m = Gemm<transB = 1>(x, w0, b0) a = Relu(m)")
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"outer": (8, 5)}
    for count in (0, 1, 3):
        assert_same(model, result, x=random(4, 6), n=np.array(count))  # type: ignore[arg-type]


def test_a_weight_that_both_branches_read_agrees() -> None:
    """The first matrix makes the same units in both, which read it through different ones."""
    model = branches(chain(source="h", out="ty"), chain("w0", "v1", "h", "ey", "b"))
    result = oc.condense(model, LOSSLESS)
    assert result.changed
    for condition in (True, False):
        assert_same(model, result, x=random(4, 6), c=condition)


def test_a_weight_that_the_graph_reads_too_is_copied() -> None:
    model = branches(
        chain(source="h", out="ty"),
        "ey = Identity(h)",
        before="h = Relu(x) m = Gemm<transB = 1>(x, w0) k = ReduceSum(m)",
        after="y = Add(i, k)",
    )
    result = oc.condense(model, LOSSLESS)
    for condition in (True, False):
        assert_same(model, result, x=random(4, 6), c=condition)


def test_a_branch_that_does_not_run_on_the_inputs_stays() -> None:
    """The else branch is for single samples; no input that is generated reaches it."""
    other = "zero = Constant<value_ints = [0]>() k = Squeeze(h, zero) u = Unsqueeze(k, zero) "
    other += chain("v0", "v1", "u", "ey", "b")
    model = branches(chain(source="h", out="ty"), other)
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0_layer": (8, 5)}
    assert reasons(model)["branch"] == Reason.BODY_DOES_NOT_RUN.value
    assert oc.analyze(model).share < 1
    assert_same(model, result, x=random(4, 6), c=True)


def loop(
    body: str, result: str = "float[N, 6] h2", start: str = "x", rows: str = "N", before: str = ""
) -> onnx.ModelProto:
    model = build(
        f"""g (float[{rows}, 6] x, int64 n) => (float[M, K] y) {{
            c = Constant<value = bool {{1}}>()
            {before}
            [loop] y = Loop (n, c, {start}) <body = b (int64 i, bool p, float[M, K] h) => (bool p2, {result}) {{
                p2 = Identity(p)
                {body}
            }}>
        }}""",
        WEIGHTS,
        check=False,
    )
    return model


def test_loop() -> None:
    model = loop(chain(source="h", out="h2"))
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0_layer": (8, 5)}
    for count in (0, 1, 5):
        assert_same(model, result, x=random(4, 6), n=np.array(count))  # type: ignore[arg-type]


def test_what_a_loop_carries_is_no_constant() -> None:
    """It starts with zeros, which would make every unit look constant."""
    model = loop(f"s = Add(h, x) {chain(source='s', out='h2')}", start="z", rows="2")
    model.graph.node.insert(0, onnx.helper.make_node("Sub", ["w1z", "w1z"], ["z"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(random(2, 6), "w1z"))
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0_layer": (8, 5)}
    assert_same(model, result, x=random(2, 6), n=np.array(4))  # type: ignore[arg-type]


def test_a_loop_that_grows_what_it_carries_stays() -> None:
    model = loop(f"{chain(source='h', out='g')} h2 = Concat<axis = 0>(h, g)", result="float[P, 6] h2")
    assert not oc.condense(model, LOSSLESS).changed
    assert reasons(model)["loop"] == Reason.BODY_RESIZES.value


@pytest.mark.parametrize("axis", [0, 1])
def test_scan(axis: int) -> None:
    body = chain(source="q", out="s2")
    model = build(
        f"""g (float[{"5, N" if axis == 0 else "N, 5"}, 6] x, float[N, 6] s0) => (float[N, 6] s, float[5, N, 6] y) {{
            [scan] s, y = Scan <num_scan_inputs = 1, scan_input_axes = [{axis}],
                body = b (float[N, 6] h, float[N, 6] z) => (float[N, 6] s2, float[N, 6] o) {{
                    q = Add(h, z) {body} o = Tanh(s2)
            }}> (s0, x)
        }}""",
        WEIGHTS,
    )
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0_layer": (8, 5)}
    shape = (5, 3, 6) if axis == 0 else (3, 5, 6)
    assert_same(model, result, x=random(*shape), s0=random(3, 6, seed=3))


def test_an_if_that_only_changes_shapes_keeps_bounds() -> None:
    """Exporters squeeze under an If: what a Sigmoid made has an absolute error behind it too."""
    model = build(
        """g (float[N, 6] x) => (float[K] y) {
            z = Gemm<transB = 1>(x, row)
            s = Sigmoid(z)
            n = Shape(s)
            one = Constant<value_ints = [1]>()
            m = Gather(n, one)
            q = Equal(m, one)
            c = Squeeze(q)
            i = If (c) <
                then_branch = t () => (float[K] ty) { a = Constant<value_ints = [1]>() ty = Squeeze(s, a) },
                else_branch = e () => (float[K] ey) { ey = Identity(s) }
            >
            y = Identity(i)
        }""",
        {"row": random(1, 6)},
        check=False,
    )
    assert bounded_outputs(open_model(model, LOSSLESS).trace) == {"y"}


def test_branches_upon_branches_are_followed_once_each() -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["t0"])]
    for n in range(1200):
        branches = {
            f"{which}_branch": helper.make_graph(
                [helper.make_node("Identity", [f"t{n}"], ["b"])], which, [], [onnx.ValueInfoProto(name="b")]
            )
            for which in ("then", "else")
        }
        nodes.append(helper.make_node("If", ["c"], [f"t{n + 1}"], **branches))
    ports = [onnx.ValueInfoProto(name=name) for name in ("x", "c")]
    graph = import_graph(helper.make_model(helper.make_graph(nodes, "g", ports, [onnx.ValueInfoProto(name="t1200")])))
    facts = SimpleNamespace(graph=graph, nodes=graph.nodes)
    for bounded, expected in ((True, {"t1200"}), (False, set())):
        sigmoid = SimpleNamespace(keeps_bounds=False, bounded=bounded)
        assert bounded_outputs(cast(Trace, SimpleNamespace(facts=facts, actions={0: sigmoid}))) == expected


def test_sizes_that_follow_the_iteration_are_no_constants() -> None:
    """The body takes one row more in every iteration, and reshapes to that many."""
    body = """one = Constant<value_ints = [1]>() zero = Constant<value_ints = [0]>()
        stop = Add(i, one) rows = Slice(x, zero, stop)
        k = Gemm<transB = 1>(rows, w0, b0) r = Relu(k) d = Shape<end = 1>(r)
        c = Constant<value_ints = [8]>() m = Concat<axis = 0>(d, c) u = Reshape(r, m)
        v = Gemm<transB = 1>(u, w1) total = ReduceSum<keepdims = 1>(v, zero) h2 = Add(h, total)"""
    model = build(
        f"""g (float[4, 6] x, float[1, 6] s) => (float[1, 6] y) {{
            n = Constant<value = int64 {{4}}>()
            [loop] y = Loop (n, , s) <body = b (int64 i, bool p, float[1, 6] h) => (bool p2, float[1, 6] h2) {{
                p2 = Identity(p)
                {body}
            }}>
        }}""",
        WEIGHTS,
        check=False,
    )
    result = oc.condense(model, LOSSLESS)
    assert groups(result) == {"w0": (8, 5)}
    assert_same(model, result, x=random(4, 6), s=random(1, 6, seed=2))


@pytest.mark.parametrize("budget", [("params", 0.8), ("error", 0.5)])
def test_a_budget_reaches_layers_in_both_branches(budget: tuple[str, float]) -> None:
    model = branches(chain(source="h", out="ty"), chain("v0", "v1", "h", "ey", "b"))
    result = oc.condense(model, oc.Options(budget=budget, align=1))
    assert result.report.output is not None
    assert result.report.verification is not None
    assert result.report.output.parameters < 0.9 * result.report.input.parameters


def test_copies_of_many_bodies_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, made = [], bodies.session

    def counted(model: onnx.ModelProto, optimize: bool = True) -> runtime.Session:
        opened.append(1)
        return made(model, optimize)

    monkeypatch.setattr(bodies, "session", counted)
    model = branches(chain(source="h", out="ty"), chain("v0", "v1", "h", "ey", "b"))
    result = oc.condense(model, LOSSLESS)
    assert {layer for layer, (before, after) in groups(result).items() if after < before} == {"w0_layer", "v0_layer"}
    assert len(opened) == 1
