"""What is looked at once, as a model comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.cli import Cli

from onnx_condense import InputError
from onnx_condense.errors import LimitError
from onnx_condense.model import files
from onnx_condense.model.checking import checked, loops
from onnx_condense.trust import Trust, within

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
PORT = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])


def shuffled() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Gemm", ["r", "v"], ["y"], transB=1, name="second"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["x", "w"], ["h"], transB=1, name="first"),
    ]


def model(nodes: list[onnx.NodeProto], *functions: onnx.FunctionProto) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((8, 8)).astype(np.float32)
    weights = {"w": np.concatenate([rows, rows]), "v": generator.standard_normal((4, 16)).astype(np.float32)}
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [PORT], [output], tensors)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8, functions=functions)


def function(name: str, calls: tuple[str, str], times: int = 1) -> onnx.FunctionProto:
    """Calls an operator or a function (its name and domain) one after the other."""
    steps = [helper.make_node(calls[0], [f"t{i}"], [f"t{i + 1}"], domain=calls[1]) for i in range(times)]
    return helper.make_function("f", name, ["t0"], [f"t{times}"], steps, OPSETS)


def with_call(name: str, *functions: onnx.FunctionProto) -> onnx.ModelProto:
    nodes = [*shuffled()[::-1]]
    nodes[1] = helper.make_node(name, ["h"], ["r"], domain="f")
    return model(nodes, *functions)


def test_nodes_in_any_order_are_sorted_and_condensed(cli: Cli) -> None:
    onnx.save(model(shuffled()), cli.folder / "m.onnx")
    cli.ok("m.onnx", "--lossless", "--align", "1", "-o", "out.onnx")
    written = onnx.load(cli.folder / "out.onnx")
    assert [node.name for node in written.graph.node] == ["first", "relu", "second"]
    assert {tuple(t.dims) for t in written.graph.initializer} == {(8, 8), (4, 8)}


def test_bodies_and_functions_are_sorted_too() -> None:
    steps = [helper.make_node("Neg", ["q"], ["r0"]), helper.make_node("Relu", ["h"], ["q"])]
    branch = helper.make_graph(steps, "b", [], [helper.make_tensor_value_info("r0", TensorProto.FLOAT, None)])
    nodes = shuffled()[::-1]
    nodes[1] = helper.make_node("If", ["yes"], ["r"], then_branch=branch, else_branch=branch)
    twisted = helper.make_function(
        "f", "F", ["a"], ["c"], [helper.make_node("Neg", ["b"], ["c"]), helper.make_node("Relu", ["a"], ["b"])], OPSETS
    )
    found = checked(model(nodes, twisted), "m")
    assert [node.op_type for node in found.functions[0].node] == ["Relu", "Neg"]
    assert [node.op_type for node in found.graph.node[1].attribute[0].g.node] == ["Relu", "Neg"]


def test_a_body_waits_for_what_it_reads_from_outside() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["q"])], "b", [], [helper.make_tensor_value_info("q", TensorProto.FLOAT, None)]
    )
    choose = helper.make_node("If", ["yes"], ["r"], then_branch=branch, else_branch=branch)
    second, _, first = shuffled()
    assert [n.op_type for n in checked(model([choose, first, second]), "m").graph.node] == ["Gemm", "If", "Gemm"]
    inside = helper.make_node("Neg", ["r"], ["q"])  # the name of a tensor inside the bodies, too
    nodes = [first, choose, inside, helper.make_node("Gemm", ["q", "v"], ["y"], transB=1)]
    ordered = model(nodes)
    assert checked(ordered, "m") is ordered


def test_a_model_in_order_is_taken_as_it_is() -> None:
    ordered = model(shuffled()[::-1])
    assert checked(ordered, "m") is ordered


def test_a_model_in_memory_is_not_changed() -> None:
    given = model(shuffled())
    before = given.SerializeToString(deterministic=True)
    assert [n.name for n in files.load(given).proto.graph.node] == ["first", "relu", "second"]
    assert given.SerializeToString(deterministic=True) == before


def test_circles_are_refused() -> None:
    nodes = shuffled()
    nodes[2].input[0] = "r"
    with pytest.raises(InputError, match="m goes in circles at"):
        checked(model(nodes), "m")
    with pytest.raises(InputError, match="goes in circles at own"):
        checked(model([helper.make_node("Neg", ["y"], ["y"], name="own")]), "m")


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        ([function("F", ("Relu", "")), function("F", ("Neg", ""))], "defines a function twice"),
        ([function("F", ("F", "f"))], "a function that uses itself"),
        ([function("F", ("G", "f")), function("G", ("F", "f"))], "a function that uses itself"),
    ],
)
def test_odd_functions_are_refused(functions: list[onnx.FunctionProto], says: str) -> None:
    with pytest.raises(InputError, match=says):
        checked(with_call("F", *functions), "m")


@pytest.mark.parametrize("depth", [14, 30, 99])
def test_functions_that_double_are_counted_and_not_written_out(depth: int) -> None:
    doubling = [function("D0", ("Relu", "")), *(function(f"D{i}", (f"D{i - 1}", "f"), 2) for i in range(1, depth + 1))]
    found = with_call(f"D{depth}", *doubling)
    with pytest.raises(LimitError, match="more than 10000 nodes: allow more with --limit-nodes"):
        checked(found, "m")
    with within(Trust(limit_nodes=0)):
        assert checked(found, "m") is found


@pytest.mark.parametrize("depth", [100, 1000])
def test_functions_nest_as_deep_as_onnxruntime_takes(depth: int) -> None:
    nested = [function("D0", ("Relu", "")), *(function(f"D{i}", (f"D{i - 1}", "f")) for i in range(1, depth + 1))]
    assert checked(with_call("D99", *nested[:100]), "m").functions
    with pytest.raises(InputError, match="functions that nest more than 100 deep"):
        checked(with_call(f"D{depth}", *nested), "m")


def test_bodies_are_counted() -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    for _ in range(4):
        body = helper.make_graph([node], "branch", [], [onnx.ValueInfoProto(name="y")])
        node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    found = model([node])
    with within(Trust(limit_nodes=29)), pytest.raises(LimitError, match="more than 29 bodies of If, Loop and Scan"):
        checked(found, "m")
    with within(Trust(limit_nodes=30)):
        assert checked(found, "m") is found


def test_names_are_text_everywhere(tmp_path: Path) -> None:
    inner = function("Fun", ("Relu", ""))
    data = with_call("Fun", inner).SerializeToString()
    for name in (b"Fun", b"t0", b"first"):
        path = tmp_path / "m.onnx"
        path.write_bytes(data.replace(name, b"\xff" * len(name)))
        with pytest.raises(InputError, match="not UTF-8"):
            files.load(path)
    broken = model(shuffled()).SerializeToString().replace(b"\x12\x01N", b"\x12\x01\xff")
    (tmp_path / "m.onnx").write_bytes(broken)
    with pytest.raises(InputError, match="not UTF-8"):
        files.load(tmp_path / "m.onnx")


def test_loops_are_seen_in_functions_and_branches_are_none() -> None:
    end = helper.make_tensor_value_info("q", TensorProto.FLOAT, None)
    for inputs, expected in (([], False), ([PORT], True)):
        body = helper.make_graph([helper.make_node("Neg", ["x"], ["q"])], "b", inputs, [end])
        step = helper.make_node("Some", ["a"], ["c"], body=body)
        assert loops(with_call("F", helper.make_function("f", "F", ["a"], ["c"], [step], OPSETS))) == expected
    assert not loops(model(shuffled()))
