"""Forms: entered one after the other, left in reverse."""

import numpy as np
import onnx
from support.builders import build, clustered, random
from support.planted.net import run

from onnx_condense import Options, condense
from onnx_condense.forms.stack import Entered, for_good

BRANCH = "m = Gemm<transB = 1>(h, rows)  r = Relu(m)  o = Gemm<transB = 1>(r, columns)"


def named(name: str) -> onnx.ModelProto:
    return onnx.ModelProto(producer_name=name)


def stamped(entered: Entered, stamp: str) -> Entered:
    """A form whose way back says where it was."""

    def leave(written: onnx.ModelProto, traced: onnx.ModelProto) -> onnx.ModelProto:
        return named(f"{written.producer_name} < {stamp}({traced.producer_name})")

    return entered.then(named(f"{entered.model.producer_name} > {stamp}"), leave)


def test_forms_are_left_in_reverse_and_are_told_what_was_traced() -> None:
    entered = Entered(named("file")).into(
        for_good(lambda model: named(f"{model.producer_name} > plain")),
        lambda e: stamped(e, "opened"),
        lambda e: stamped(e, "flat"),
    )
    assert entered.model.producer_name == "file > plain > opened > flat"
    left = entered.leave(named("small"), named("traced"))
    assert left.producer_name == "small < flat(traced) < opened(traced < flat(traced))"


def test_integers_and_bodies_in_one_model() -> None:
    integers = np.random.default_rng(0).integers(100, 140, (6, 6)).astype(np.uint8)
    model = build(
        f"""g (float[N, 6] x, bool c) => (float[N, 6] y) {{
            q = QuantizeLinear(x, scale, zero)
            p = QLinearMatMul(q, scale, zero, square, scale, zero, scale, zero)
            h = DequantizeLinear(p, scale, zero)
            y = If (c) <
                then_branch = t () => (float[N, 6] o) {{ {BRANCH} }},
                else_branch = e () => (float[N, 6] z) {{ z = Tanh(h) }}
            >
        }}""",
        {
            "square": integers,
            "scale": np.array(0.1, dtype=np.float32),
            "zero": np.array(120, dtype=np.uint8),
            "rows": clustered(8, 6, 5, ratios=False),
            "columns": random(6, 8),
        },
    )
    small = condense(model, Options(lossless=True, align=1)).model
    assert [n.op_type for n in small.graph.node] == [n.op_type for n in model.graph.node]
    branch = small.graph.node[-1].attribute[0].g
    assert [n.op_type for n in branch.node] == ["Gemm", "Relu", "Gemm"]
    assert {tuple(t.dims) for t in (*small.graph.initializer, *branch.initializer)} >= {(5, 6), (6, 5)}
    feed = {"x": np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)}
    for taken in (True, False):
        before, after = (run(m, feed | {"c": np.array(taken)})[0] for m in (model, small))
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)
