"""Ifs that take the same branch whatever is fed are its nodes; all others are left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.builders import build, clustered, random
from support.lossless import LOSSLESS
from support.planted.net import run

from onnx_condense import condense

ROWS = clustered(8, 7, 5)
WEIGHTS = {"w0": ROWS[:, :6].copy(), "b0": ROWS[:, 6].copy(), "w1": random(6, 8, scale=0.3)}

CONDITIONS = {
    "a constant": ("c = Constant<value = bool {1}>()", True),
    "false": ("c = Constant<value = bool {0}>()", False),
    "of channels": ("n = Shape(a) k = Gather(n, one) e = Constant<value = int64 {8}>() c = Equal(k, e)", True),
    "of a rank": ("n = Shape(a) k = Size(n) e = Constant<value = int64 {3}>() c = Equal(k, e)", False),
    "of the batch": ("n = Shape(a) k = Gather(n, zero) e = Constant<value = int64 {1}>() c = Equal(k, e)", None),
    "of most batches": (
        "n = Shape(a) k = Gather(n, zero) e = Constant<value = int64 {-1}>() c = Greater(k, e)",
        None,
    ),
    "of data": ("t = ReduceSum<keepdims = 0>(x) e = Constant<value = float {0}>() c = Greater(t, e)", None),
}


def model(condition: str, branches: str, check: bool = True) -> onnx.ModelProto:
    return build(
        f"""g (float[N, 6] x) => (float[N, 6] y) {{
            zero = Constant<value = int64 {{0}}>()
            one = Constant<value = int64 {{1}}>()
            [outer] m = Gemm<transB = 1>(x, w0, b0)
            a = Relu(m)
            {condition}
            [which] i = If (c) <{branches}>
            [last] y = Gemm<transB = 1>(i, w1)
        }}""",
        WEIGHTS,
        check=check,
    )


PASSING = """then_branch = t () => (float[N, 8] ty) { p = Neg(a) ty = Neg(p) },
    else_branch = e () => (float[N, 8] ey) { p = Identity(a) ey = Relu(p) }"""

BRANCHES = {
    "passing": PASSING,
    "of outer tensors": """then_branch = t () => (float[N, 8] a) { unread = Neg(a) },
        else_branch = e () => (float[N, 8] a) { unread = Abs(a) }""",
    "inside another": """then_branch = t () => (float[N, 8] ty) {
            ty = If (c) < then_branch = t2 () => (float[N, 8] t2y) { t2y = Identity(a) },
                else_branch = e2 () => (float[N, 8] e2y) { e2y = Neg(a) } > },
        else_branch = e () => (float[N, 8] ey) {
            q = Not(c) ey = If (q) < then_branch = t2 () => (float[N, 8] t2y) { t2y = Identity(a) },
                else_branch = e2 () => (float[N, 8] e2y) { e2y = Neg(a) } > }""",
}


@pytest.mark.parametrize("branches", ["passing", "inside another"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_channels_pass_what_is_always_taken(condition: str, branches: str) -> None:
    """Where both may be taken, what an If makes stays, and what is read in a body without weights."""
    asked, always = CONDITIONS[condition]
    before = model(asked, BRANCHES[branches])
    small = condense(before, LOSSLESS).model
    kept = {t.name: t.dims for t in small.graph.initializer}
    (last,) = (node for node in small.graph.node if node.name == "last")
    assert list(kept[last.input[1]]) == [6, 8 if always is None else 5]
    assert ("If" in {node.op_type for node in small.graph.node}) == (always is None)
    for rows in (1, 2, 5):
        (expected,), (found,) = (run(m, {"x": random(rows, 6, seed=rows)}) for m in (before, small))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(small, full_check=True)


def test_a_condition_that_a_caller_may_set() -> None:
    before = model("d = Not(c)", PASSING, check=False)
    before.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "c"))
    before.graph.input.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    small = condense(before, LOSSLESS).model
    assert "If" in {node.op_type for node in small.graph.node}
    for choice in (True, False):
        feed = {"x": random(3, 6), "c": np.array(choice)}
        np.testing.assert_allclose(run(small, feed)[0], run(before, feed)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", ["k = Size(r)", "k0 = Shape(r) k = Squeeze(k0)"])
def test_how_many_numbers_follow_a_size(asked: str) -> None:
    """A range as long as the batch has one rank, and many lengths."""
    condition = f"n = Shape(a) k1 = Gather(n, zero) r = Range(zero, k1, one) {asked}"
    least = "e = Constant<value = int64 {99}>() c = Less(k, e)"
    small = condense(model(f"{condition} {least}", PASSING), LOSSLESS).model
    assert "If" in {node.op_type for node in small.graph.node}


def test_weights_of_the_branch() -> None:
    """Two Ifs whose branches use the same names."""
    chain = """{0} = c{0} () => (float[N, 8] b{0}) {{ k = Gemm<transB = 1>(s, w1)
        r = Relu(k) b{0} = Gemm<transB = 1>(r, w0s, b0) }}"""
    inner = ", ".join(chain.format(name) for name in ("then_branch", "else_branch"))
    before = build(
        f"""g (float[N, 8] s) => (float[N, 8] y) {{
            c = Constant<value = bool {{1}}>()
            h = If (c) <{inner}>
            u = If (c) <then_branch = t () => (float[N, 8] ty) {{ k = Tanh(h) ty = Neg(k) }},
                else_branch = e () => (float[N, 8] ey) {{ k = Tanh(h) ey = Abs(k) }}>
            y = Identity(u)
        }}""",
        {"w1": clustered(6, 8, 4), "w0s": random(8, 6), "b0": random(8)},
    )
    small = condense(before, LOSSLESS).model
    assert sorted(tuple(t.dims) for t in small.graph.initializer) == [(4, 8), (8,), (8, 4)]
    feed = {"s": random(4, 8)}
    for found, expected in zip(run(small, feed), run(before, feed), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
