"""What is true of a graph before it is traced: concrete shapes, and the values that do not depend on data.

Shapes come from onnxruntime itself (a Shape node on every tensor), so nothing here depends on value_info. Values that
follow from constants and shapes alone are computed by a small model of just those nodes, which can be run again for
other shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_condense.inputs import Feed
from onnx_condense.runtime import Array, run, session

SHAPE_OPS = ("Shape", "Size")
NOT_CONSTANT = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
NO_TENSOR = -1
LARGE = 2**26
"""Largest constant in elements that is computed ahead; beyond it a constant is treated as data."""


class Facts:
    """Shapes and constant values of the tensors of one graph on one feed.

    Attributes:
        graph: the GraphSurgeon graph, nodes in topological order.
        nodes: its nodes; an index into this list names a node for good.
        opset: version of the default operator set.
        shapes: tensor name -> concrete shape on the feed.
        derived: names of tensors that follow from constants and shapes (not from constants alone).
    """

    def __init__(self, model: onnx.ModelProto, graph: gs.Graph, feed: Feed, other: Feed | None = None) -> None:
        """`other`: a feed with other sizes on every symbolic axis, where the model takes one."""
        self.model = model
        self.graph = graph
        self.nodes: list[gs.Node] = list(graph.nodes)
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.initializers = {t.name: t for t in model.graph.initializer}
        self._values: dict[str, Array] = {}
        self.types = _element_types(model)
        self.static, self.derived = self._classify()
        self._makers = {t.name: node for node in self.nodes for t in node.outputs if t.name}
        self.shapes = self._probe(feed)
        self._other = other
        self._values.update(self._run_static(self.shapes))

    def value(self, tensor: gs.Tensor) -> Array | None:
        """The value of a tensor that no data reaches, else None."""
        return self.value_by_name(tensor.name)

    def value_by_name(self, name: str) -> Array | None:
        """As `value`, for a name."""
        if name not in self._values and name in self.initializers:
            self._values[name] = numpy_helper.to_array(self.initializers[name])
        return self._values.get(name)

    def evaluate(self, index: int, values: Array) -> Array:
        """Runs one node of the graph, whose other inputs are constant, on numbers."""
        proto = self.model.graph.node[index]
        data = next(n for n in proto.input if n not in self.static)
        constants = {n: self.value_by_name(n) for n in proto.input if n in self.static and n}
        kinds = [numpy_helper.from_array(v, n) for n, v in constants.items() if v is not None]
        kind = self.types.get(data, kinds[0].data_type if kinds else onnx.TensorProto.FLOAT)
        graph = onnx.helper.make_graph(
            [proto],
            "one",
            [onnx.helper.make_tensor_value_info(data, kind, [None])],
            [onnx.ValueInfoProto(name=proto.output[0])],
            kinds,
        )
        model = onnx.ModelProto(
            ir_version=max(self.model.ir_version, 4), graph=graph, opset_import=self.model.opset_import
        )
        feed = {data: values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))}
        return run(session(model, optimize=False), None, feed)[0].astype(np.float64)

    def measured(self, name: str) -> set[str]:
        """The tensors of data whose shapes a derived tensor follows from."""
        known = self.static | self.derived
        return (
            {n for n in self.upstream(name) if n in self.shapes and n not in known} if name in self.derived else set()
        )

    def upstream(self, name: str) -> set[str]:
        """Every tensor that a constant or derived tensor is computed from; data counts where its shape is taken."""
        constant = self.static | self.derived
        found: set[str] = set()
        waiting = [name]
        while waiting:
            node = self._makers.get(waiting.pop())
            for tensor in node.inputs if node is not None else ():
                if tensor.name and tensor.name not in found:
                    found.add(tensor.name)
                    if tensor.name in constant:
                        waiting.append(tensor.name)
        return found

    def is_generated(self, name: str) -> bool:
        """Whether a constant takes far less room in the file than as an initializer (ConstantOfShape, Expand)."""
        value = self.value_by_name(name)
        if value is None or name in self.initializers:
            return False
        leaves = [n for n in self.upstream(name) | {name} if n in self.initializers or self._is_constant_node(n)]
        return 2 * sum(v.size for v in map(self.value_by_name, leaves) if v is not None) < value.size

    def _is_constant_node(self, name: str) -> bool:
        return name in self._makers and self._makers[name].op == "Constant"

    def follows_inputs(self, name: str) -> bool:
        """Whether a derived value changes with the sizes of the inputs."""
        other = self.other_value(name)
        return other is not None and not np.array_equal(other, self._values[name])

    def other_value(self, name: str) -> Array | None:
        """The value of a derived tensor under the other sizes, None where there are none."""
        return None if self._other is None else self._elsewhere[1][name]

    def other_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor under the other sizes, None where there are none."""
        return None if self._other is None else self._elsewhere[0][name]

    @cached_property
    def _elsewhere(self) -> tuple[dict[str, tuple[int, ...]], dict[str, Array]]:
        assert self._other is not None
        shapes = self._probe(self._other)
        return shapes, self._run_static(shapes)

    def changing(self, name: str) -> NDArray[np.bool_]:
        """Which elements of a derived value change with the sizes of the inputs."""
        value, other = self._values[name], self.other_value(name)
        if other is None:
            return np.zeros(value.shape, dtype=bool)
        return np.asarray(other != value) if other.shape == value.shape else np.ones(value.shape, dtype=bool)

    def values_under(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """The shape-derived values that other shapes lead to."""
        return {name: value for name, value in self._run_static(shapes).items() if name in self.derived}

    @property
    def names(self) -> set[str]:
        """Every tensor name in use."""
        produced = {t.name for node in self.nodes for t in (*node.inputs, *node.outputs)}
        return produced | set(self.initializers) | {v.name for v in self.model.graph.input}

    def consumers(self, name: str) -> list[tuple[int, int]]:
        """(node index, input index) of every use of a tensor at the top level."""
        return self._uses.get(name, [])

    def captured(self) -> Iterator[str]:
        """Names of outer tensors that If, Loop and Scan bodies read."""
        for node in self.nodes:
            for attribute in node.attrs.values():
                if isinstance(attribute, gs.Graph):
                    yield from _names_inside(attribute)

    def _classify(self) -> tuple[set[str], set[str]]:
        static = set(self.initializers)
        derived: set[str] = set()
        self._uses: dict[str, list[tuple[int, int]]] = {}
        for index, node in enumerate(self.nodes):
            for position, tensor in enumerate(node.inputs):
                if tensor.name:
                    self._uses.setdefault(tensor.name, []).append((index, position))
            names = [t.name for t in node.inputs if t.name]
            outputs = [t.name for t in node.outputs if t.name]
            has_body = any(isinstance(a, gs.Graph) for a in node.attrs.values())
            if node.op == "CastLike" and names[0] in static and names[1] in self.types:
                static.update(outputs)
            elif node.op in SHAPE_OPS and names and names[0] not in static:
                derived.update(outputs)
            elif not has_body and node.op not in NOT_CONSTANT and all(n in static or n in derived for n in names):
                (derived if any(n in derived for n in names) else static).update(outputs)
        return static, derived

    def _plain_cast(self, proto: onnx.NodeProto) -> onnx.NodeProto:
        """CastLike takes nothing but the type from its second input."""
        if proto.op_type != "CastLike":
            return proto
        kind = self.types[proto.input[1]]
        return onnx.helper.make_node("Cast", [proto.input[0]], list(proto.output), to=kind)

    def _probe(self, feed: Feed) -> dict[str, tuple[int, ...]]:
        """Asks onnxruntime for the shape of every tensor."""
        probe = onnx.ModelProto()
        probe.CopyFrom(self.model)
        names = self._tensors_of_data()
        del probe.graph.output[:]
        for index, name in enumerate(names):
            probe.graph.node.add(op_type="Shape", input=[name], output=[f"__shape_{index}"])
            probe.graph.output.add(name=f"__shape_{index}")
        shapes = {name: value.shape for name, value in feed.items()}
        if names:
            found = run(session(probe, optimize=False), None, feed)
            shapes |= {name: tuple(int(size) for size in value) for name, value in zip(names, found, strict=True)}
        return shapes

    def _tensors_of_data(self) -> list[str]:
        outputs = [t.name for node in self.nodes for t in node.outputs if t.name]
        known = self.static | self.derived
        return [n for n in outputs if n not in known and self.types.get(n) != NO_TENSOR]

    def _run_static(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """Runs the nodes that data does not reach, with the outputs of Shape nodes fed in."""
        constant = self.static | self.derived
        graph = onnx.GraphProto(name="static")
        feed: Feed = {}
        wanted: list[str] = []
        needed: set[str] = set()
        for node, proto in zip(self.nodes, self.model.graph.node, strict=True):
            outputs = [name for name in proto.output if name]
            if not outputs or not all(name in constant for name in outputs):
                continue
            if node.op in SHAPE_OPS and proto.input[0] in shapes and proto.input[0] not in constant:
                feed[outputs[0]] = _shape_value(proto, shapes[proto.input[0]])
                graph.input.append(onnx.helper.make_tensor_value_info(outputs[0], onnx.TensorProto.INT64, None))
                continue
            proto = self._plain_cast(proto)
            graph.node.append(proto)
            needed.update(proto.input)
            wanted += outputs
        if not wanted:
            return dict(feed)
        graph.initializer.extend(t for t in self.model.graph.initializer if t.name in needed)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        model = onnx.ModelProto(
            ir_version=max(self.model.ir_version, 4), graph=graph, opset_import=self.model.opset_import
        )
        found = run(session(model, optimize=False), wanted, {k: v for k, v in feed.items() if k in needed})
        return feed | {name: value for name, value in zip(wanted, found, strict=True) if value.size <= LARGE}


def _shape_value(node: onnx.NodeProto, shape: tuple[int, ...]) -> Array:
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Size":
        return np.asarray(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    return np.asarray(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], dtype=np.int64)


def _names_inside(body: gs.Graph) -> Iterator[str]:
    for node in body.nodes:
        yield from (t.name for t in node.inputs)
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Graph):
                yield from _names_inside(attribute)
    yield from (t.name for t in body.outputs)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor name -> TensorProto.DataType, as far as shape inference tells; NO_TENSOR for sequences and the like."""
    try:
        graph = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        graph = model.graph
    types = {t.name: t.data_type for t in model.graph.initializer}
    for value in (*graph.value_info, *graph.output, *graph.input):
        kind = value.type.WhichOneof("value")
        if kind == "tensor_type" and value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
        elif kind is not None and kind != "tensor_type":
            types[value.name] = NO_TENSOR
    return types


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy small enough for shape inference: weights of more than a kilobyte are replaced by typed inputs."""
    small = onnx.ModelProto(
        ir_version=max(model.ir_version, 4), opset_import=model.opset_import, functions=model.functions
    )
    small.graph.node.extend(model.graph.node)
    small.graph.output.extend(model.graph.output)
    small.graph.name = model.graph.name
    named = {t.name for t in model.graph.initializer}
    small.graph.input.extend(v for v in model.graph.input if v.name not in named)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= 1024:
            small.graph.initializer.append(tensor)
        else:
            small.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return small
