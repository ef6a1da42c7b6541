"""What tools/fuzz_files.py does to models."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES = (0, 1, 2, 3, 5, 7, 99, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, -1, -2)
NUMBERS = (float("nan"), float("inf"), -float("inf"), 0.0, 1e38, -1e-45, 1.0)
NAMES = ("", "x", "[/bold]", "\x1b]52;c;AAAA\x07", "a/b\\c\n", "\u202e", "n" * 3000, "%s{0}", "../x")
OPERATORS = (
    "Relu",
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "Reshape",
    "Concat",
    "Gather",
    "Loop",
    "If",
    "LSTM",
    "Expand",
    "Tile",
)
OPERATORS += ("Softmax", "Transpose", "ConstantOfShape", "Range", "Split", "Resize", "Einsum", "Nothing", "SequenceAt")
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "my.own")


# ---------------------------------------------------------------------------------------------------- mutations


def mutant(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A damaged copy of a model, and what was done to it."""
    if draw.random() < 0.2:
        return _bytes(data, draw), "bytes"
    model = onnx.ModelProto.FromString(data)
    done = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        name, change = draw.choice(list(MUTATIONS.items()))
        try:
            change(model, draw)
        except (
            IndexError,
            KeyError,
            ValueError,
            TypeError,
            StopIteration,
            onnx.checker.ValidationError,
        ):  # nothing of that kind is there to be damaged
            continue
        done.append(name)
    found = model.SerializeToString()
    if draw.random() < 0.03 and any(node.op_type for node in model.graph.node):
        return _unreadable(found, model, draw), "+".join((*done, "unreadable"))
    return found, "+".join(done) or "none"


def _bytes(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        start, length = draw.randrange(len(found)), draw.choice((1, 1, 4, 16, 200))
        match draw.randrange(5):
            case 0:
                found[start] ^= 1 << draw.randrange(8)
            case 1:
                found[start : start + length] = draw.randbytes(length)
            case 2:
                del found[start : start + length]
            case 3:
                found[start:start] = found[draw.randrange(len(found)) :][:length]
            case _:
                del found[max(1, start) :]
        if not found:
            return b""
    return bytes(found)


def _unreadable(data: bytes, model: onnx.ModelProto, draw: random.Random) -> bytes:
    """A name that is no UTF-8."""
    names = [n for node in model.graph.node for n in (node.name, node.op_type, *node.input, *node.output) if n]
    name = draw.choice(names).encode()
    return data.replace(name, b"\xff" * len(name))


def _holders(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    waiting = [model.graph, *model.functions]
    while waiting:
        holder = waiting.pop()
        yield holder
        waiting += (a.g for node in holder.node for a in node.attribute if a.HasField("g"))


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for holder in _holders(model) for node in holder.node]


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [*model.graph.initializer, *(a.t for node in _nodes(model) for a in node.attribute if a.HasField("t"))]


def _values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output, *model.graph.value_info]


def _known(model: onnx.ModelProto) -> list[str]:
    made = [name for node in _nodes(model) for name in node.output]
    return [*made, *(t.name for t in model.graph.initializer), *(v.name for v in model.graph.input)]


def _tensor_shape(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = draw.choice(_tensors(model))
    match draw.randrange(4):
        case 0:
            tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(SIZES)
        case 1:
            del tensor.dims[:]
        case 2:
            tensor.dims.append(draw.choice((1, 1, *SIZES)))
        case _:
            tensor.dims[:] = reversed(tensor.dims)


def _tensor_numbers(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = draw.choice(_tensors(model))
    numbers = numpy_helper.to_array(tensor).copy()
    if numbers.dtype.kind == "f":
        numbers.reshape(-1)[draw.randrange(numbers.size) :: draw.choice((1, 3, 1000))] = draw.choice(NUMBERS)
    else:
        numbers.reshape(-1)[draw.randrange(numbers.size)] = draw.choice((0, 1, -1, 2, 100))
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))


def _tensor_whole(model: onnx.ModelProto, draw: random.Random) -> None:
    """A constant that says how often, how long, or how large."""
    found = [t for t in _tensors(model) if t.data_type == TensorProto.INT64]
    tensor = draw.choice(found)
    numbers = numpy_helper.to_array(tensor).copy()
    numbers.reshape(-1)[draw.randrange(numbers.size)] = draw.choice(SIZES)
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))


def _tensor_type(model: onnx.ModelProto, draw: random.Random) -> None:
    draw.choice(_tensors(model)).data_type = draw.randrange(26)


def _tensor_data(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = draw.choice(_tensors(model))
    match draw.randrange(3):
        case 0:
            tensor.raw_data = tensor.raw_data[: draw.randrange(1 + len(tensor.raw_data))]
        case 1:
            tensor.raw_data += bytes(draw.choice((1, 4, 64)))
        case _:
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=draw.choice(NAMES))


def _tensor_swap(model: onnx.ModelProto, draw: random.Random) -> None:
    one, other = draw.sample(list(model.graph.initializer), 2)
    one.name, other.name = other.name, one.name


def _value_shape(model: onnx.ModelProto, draw: random.Random) -> None:
    kind = draw.choice(_values(model)).type.tensor_type
    match draw.randrange(4):
        case 0:
            draw.choice(kind.shape.dim).dim_value = draw.choice(SIZES)
        case 1:
            draw.choice(kind.shape.dim).dim_param = draw.choice(("N", "N + N", "2*N", *NAMES))
        case 2:
            kind.shape.dim.add(dim_value=draw.choice(SIZES))
        case _:
            kind.ClearField("shape")


def _value_type(model: onnx.ModelProto, draw: random.Random) -> None:
    value = draw.choice(_values(model))
    if draw.random() < 0.5:
        value.type.tensor_type.elem_type = draw.randrange(26)
    else:
        value.CopyFrom(draw.choice(_values(model)))


def _names(model: onnx.ModelProto, draw: random.Random) -> None:
    node = draw.choice(_nodes(model))
    match draw.randrange(3):
        case 0:
            node.name = draw.choice(NAMES)
        case 1:
            node.output[draw.randrange(len(node.output))] = draw.choice((*NAMES, *_known(model)))
        case _:
            draw.choice(_values(model)).name = draw.choice((*NAMES, *_known(model)))


def _everywhere(model: onnx.ModelProto, draw: random.Random) -> None:
    """A tensor gets another name wherever it has one: the model is still right."""
    old, new = draw.choice(_known(model)), draw.choice(NAMES[1:])
    for node in _nodes(model):
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for named in (*model.graph.initializer, *_values(model)):
        named.name = new if named.name == old else named.name


def _wires(model: onnx.ModelProto, draw: random.Random) -> None:
    node = draw.choice(_nodes(model))
    match draw.randrange(4):
        case 0:
            node.input[draw.randrange(len(node.input))] = draw.choice(["", *_known(model)])
        case 1:
            node.input.append(draw.choice(_known(model)))
        case 2:
            del node.input[draw.randrange(len(node.input)) :]
        case _:
            node.input[draw.randrange(len(node.input))] = draw.choice([n for n in node.output if n])


def _order(model: onnx.ModelProto, draw: random.Random) -> None:
    holder = draw.choice(list(_holders(model)))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in holder.node]
    match draw.randrange(3):
        case 0:
            draw.shuffle(copies)
        case 1:
            copies.pop(draw.randrange(len(copies)))
        case _:
            copies.append(draw.choice(copies))
    del holder.node[:]
    holder.node.extend(copies)


def _operator(model: onnx.ModelProto, draw: random.Random) -> None:
    node = draw.choice(_nodes(model))
    if draw.random() < 0.8:
        node.op_type = draw.choice((*OPERATORS, *(other.op_type for other in _nodes(model))))
    else:
        node.domain = draw.choice(DOMAINS)


def _attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    found = [(node, a) for node in _nodes(model) for a in node.attribute]
    node, attribute = draw.choice(found)
    match draw.randrange(6):
        case 0:
            attribute.CopyFrom(
                helper.make_attribute(attribute.name, draw.choice(("one", 1, 1.5, [1, 2], ["a"], [0.5])))
            )
        case 1:
            attribute.type = draw.randrange(15)
        case 2:
            attribute.i = draw.choice(SIZES)
        case 3:
            attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(SIZES)
        case 4:
            attribute.name = draw.choice((*NAMES, *(a.name for _, a in found)))
        case _:
            node.attribute.remove(attribute)


def _added_attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    names = ("axis", "group", "transA", "transB", "perm", "pads", "strides", "dilations", "kernel_shape", "to", "mode")
    value = draw.choice((draw.choice(SIZES), [draw.choice(SIZES) for _ in range(draw.randrange(1, 5))], "same", 0.5))
    node = draw.choice(_nodes(model))
    node.attribute.append(helper.make_attribute(draw.choice(names), value))


def _nesting(model: onnx.ModelProto, draw: random.Random) -> None:
    """A node moves into a branch of an If, in which it moves into a branch of an If, and so on."""
    place = draw.randrange(len(model.graph.node))
    node = onnx.NodeProto.FromString(model.graph.node[place].SerializeToString())
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "nested"))
    for _ in range(draw.choice((1, 2, 5, 40))):
        ends = [onnx.ValueInfoProto(name=name) for name in node.output]
        body = helper.make_graph([node], "branch", [], ends)
        node = helper.make_node("If", ["nested"], list(node.output), then_branch=body, else_branch=body)
        if node.ByteSize() > 2**20:
            break
    model.graph.node[place].CopyFrom(node)


def _functions_changed(model: onnx.ModelProto, draw: random.Random) -> None:
    function = draw.choice(list(model.functions))
    match draw.randrange(4):
        case 0:
            model.functions.append(function)
        case 1:
            draw.choice(function.node).op_type = draw.choice([f.name for f in model.functions])
            draw.choice(function.node).domain = "f"
        case 2:
            function.name = draw.choice(NAMES)
        case _:
            function.opset_import[0].version = draw.choice(SIZES[:9])


def _doubling(model: onnx.ModelProto, draw: random.Random) -> None:
    """Functions, each of which calls the one before twice."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    for depth in range(draw.choice((2, 8, 30, 200))):
        inner = ("Relu", "") if depth == 0 else (f"D{depth - 1}", "d")
        nodes = [helper.make_node(inner[0], [a], [b], domain=inner[1]) for a, b in (("a", "b"), ("b", "c"))]
        model.functions.append(helper.make_function("d", f"D{depth}", ["a"], ["c"], nodes, opsets))
    model.opset_import.add(domain="d", version=1)
    node = draw.choice(list(model.graph.node))
    old, node.output[0] = node.output[0], f"{node.output[0]}_d"
    model.graph.node.add(op_type=f"D{depth}", domain="d", input=[node.output[0]], output=[old])


def _endless(model: onnx.ModelProto, draw: random.Random) -> None:
    ports = [helper.make_tensor_value_info(*port) for port in (("li", 7, []), ("lk", 9, []), ("lu", 1, None))]
    step = [helper.make_node("Identity", ["lk"], ["lk1"]), helper.make_node("Tanh", ["lu"], ["lu1"])]
    ends = [helper.make_tensor_value_info("lk1", 9, []), helper.make_tensor_value_info("lu1", 1, None)]
    if draw.random() < 0.5:
        ends.append(helper.make_tensor_value_info("lu1", 1, None))
    body = helper.make_graph(step, "endless", ports, ends)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "lyes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**60, dtype=np.int64), "ltrip"))
    outputs = ["lend", "lall"][: len(ends) - 1]
    start = draw.choice(list(model.graph.node)).output[0]
    model.graph.node.add(
        op_type="Loop",
        input=[draw.choice(("", "ltrip")), "lyes", start],
        output=outputs,
        attribute=[helper.make_attribute("body", body)],
    )
    model.graph.output.add(name=draw.choice(outputs))


def _large_constant(model: onnx.ModelProto, draw: random.Random) -> None:
    size = draw.choice((10**4, 10**8, 10**9, 10**12, 2**62))
    shape = numpy_helper.from_array(np.array([size], dtype=np.int64), "large")
    model.graph.initializer.append(shape)
    one = numpy_helper.from_array(np.ones(1, dtype=np.float32), "large_one")
    match draw.randrange(3):
        case 0:
            model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["large"], ["large_made"]))
        case 1:
            model.graph.initializer.append(one)
            model.graph.node.insert(0, helper.make_node("Expand", ["large_one", "large"], ["large_made"]))
        case _:
            model.graph.initializer.append(one)
            model.graph.node.insert(0, helper.make_node("Tile", ["large_one", "large"], ["large_made"]))
    output = model.graph.output[0].name
    node = next(node for node in model.graph.node if output in node.output)
    node.output[list(node.output).index(output)] = f"{output}_before"
    model.graph.node.add(op_type="ReduceMax", input=["large_made"], output=["large_max"])
    model.graph.node.add(op_type="Add", input=[f"{output}_before", "large_max"], output=[output])


def _opset(model: onnx.ModelProto, draw: random.Random) -> None:
    if draw.random() < 0.7:
        draw.choice(model.opset_import).version = draw.choice((0, 1, 5, 6, 7, 9, 11, 12, 13, 18, 21, 99, -1))
    elif draw.random() < 0.5:
        model.ir_version = draw.choice((0, 1, 3, 4, 99))
    else:
        del model.opset_import[:]


def _ports(model: onnx.ModelProto, draw: random.Random) -> None:
    found: Sequence[onnx.ValueInfoProto] = draw.choice((model.graph.input, model.graph.output))
    match draw.randrange(3):
        case 0:
            found.add().CopyFrom(draw.choice(_values(model)))
        case 1:
            found.remove(draw.choice(found))
        case _:
            found.add(name=draw.choice(_known(model)))


MUTATIONS: dict[str, Callable[[onnx.ModelProto, random.Random], None]] = {
    "tensor shape": _tensor_shape,
    "tensor numbers": _tensor_numbers,
    "tensor whole numbers": _tensor_whole,
    "tensor type": _tensor_type,
    "tensor data": _tensor_data,
    "tensor swap": _tensor_swap,
    "value shape": _value_shape,
    "value type": _value_type,
    "names": _names,
    "names everywhere": _everywhere,
    "wires": _wires,
    "order": _order,
    "operator": _operator,
    "attribute": _attribute,
    "added attribute": _added_attribute,
    "nesting": _nesting,
    "functions": _functions_changed,
    "doubling": _doubling,
    "endless": _endless,
    "large constant": _large_constant,
    "opset": _opset,
    "ports": _ports,
}
