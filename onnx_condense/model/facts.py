"""What is true of a graph before it is traced: concrete shapes, and the values that do not depend on data.

Shapes come from onnxruntime itself (a Shape node on every tensor), so nothing here depends on value_info. Values that
follow from constants and shapes alone are computed by a small model of just those nodes, which can be run again for
other shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_condense.arrays import FLOATS, Array, FloatType
from onnx_condense.errors import InputError
from onnx_condense.model.inference import NO_TENSOR, _element_types
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.protos import opset_of
from onnx_condense.model.runtime import run, session
from onnx_condense.model.storage import INTEGERS, Narrowed, Quantized

SHAPE_OPS = ("Shape", "Size")
NOT_CONSTANT = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
LARGE = 2**26
"""Largest constant in elements that is computed ahead; beyond it a constant is treated as data."""


class Facts:
    """Shapes and constant values of the tensors of one graph on one feed.

    Attributes:
        graph: the GraphSurgeon graph, nodes in topological order.
        nodes: its nodes; an index into this list names a node for good.
        opset: version of the default operator set.
        feed: values of its inputs.
        inside: what names of tensors in copies of bodies begin with.
        shapes: tensor name -> concrete shape on the feed.
        derived: names of tensors that follow from constants and shapes (not from constants alone).
        sparse: name of a sparse constant -> how many numbers it stands for.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        graph: gs.Graph,
        feed: Feed,
        other: Feed | None = None,
        inside: tuple[str, ...] = (),
    ) -> None:
        """`other`: a feed with other sizes on every symbolic axis, where the model takes one."""
        self.model = model
        self.feed = feed
        self.inside = inside
        self.graph = graph
        self.nodes: list[gs.Node] = list(graph.nodes)
        self.opset = opset_of(model.opset_import)
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.sparse = _sparse_sizes(model)
        self._values: dict[str, Array] = {}
        self._stored: dict[str, Quantized | Narrowed | None] = {}
        self.types = _element_types(model)
        self.static, self.derived = self._classify()
        self._index = {id(node): index for index, node in enumerate(self.nodes)}
        self._makers = {t.name: node for node in self.nodes for t in node.outputs if t.name}
        self.shapes = self._probe(feed)
        self.other = other
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
            ir_version=max(self.model.ir_version, 4),
            graph=graph,
            opset_import=self.model.opset_import,
            functions=self.model.functions,
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

    def parameters(self, tensors: Iterable[gs.Tensor]) -> int:
        """How many numbers the weights among these tensors hold: constant matrices and kernels, floats or bytes."""
        names = [t.name for t in tensors]
        values = [self.value_by_name(name) for name in names if name in self.static]
        dense = sum(v.size for v in values if v is not None and v.ndim > 1 and _is_weight(v.dtype))
        return dense + sum(self.sparse.get(name, 0) for name in names)

    def stored(self, name: str) -> Quantized | Narrowed | None:
        """How a constant is stored that one node makes, for one reader, of what takes less room; else None."""
        if name not in self._stored:
            self._stored[name] = self._read_quantized(name) or self._read_narrowed(name)
        return self._stored[name]

    def float_type(self, name: str) -> FloatType | None:
        """The type that the numbers of a constant of floats were rounded to, None for every other tensor."""
        value, stored = self.value_by_name(name) if name in self.static else None, self.stored(name)
        if isinstance(stored, Narrowed):
            return FLOATS[stored.kind.name]
        return FLOATS.get(value.dtype.name) if value is not None else None

    def is_locked(self, name: str) -> bool:
        """Whether a constant follows from integers in a way in which it could not be sliced and stay integers."""
        value = self.value_by_name(name) if name in self.static else None
        if value is None or value.size < 2 or isinstance(self.stored(name), Quantized):
            return False
        makers = (self._makers.get(n) for n in self.upstream(name) | {name})
        return any(maker is not None and maker.op == "DequantizeLinear" for maker in makers)

    def _read_quantized(self, name: str) -> Quantized | None:
        node = self._makers.get(name)
        if node is None or node.op != "DequantizeLinear" or len(self.consumers(name)) != 1 or name not in self.static:
            return None
        leaf, source, maker = node.inputs[0].name, None, self._makers.get(node.inputs[0].name)
        integers, parameters = self.value_by_name(leaf), self._scale_and_zero(node)
        if len(self.consumers(leaf)) != 1:
            return None
        if maker is not None and maker.op == "QuantizeLinear":
            leaf, same = maker.inputs[0].name, self._scale_and_zero(maker)
            floats = self.value_by_name(leaf)
            alike = len(same) == len(parameters) and all(map(np.array_equal, same, parameters))
            if floats is None or not alike or len(self.consumers(leaf)) != 1:
                return None
            source = self._index[id(maker)], floats.dtype
        if leaf not in self.initializers and not self._is_constant_node(leaf):
            return None
        if integers is None or integers.dtype not in INTEGERS or not parameters:
            return None
        scale, zero = parameters[0], parameters[-1] if len(parameters) > 1 else np.zeros_like(parameters[0], dtype=int)
        axis = None if scale.size == 1 else int(node.attrs.get("axis", 1)) % integers.ndim
        if axis is not None and scale.shape != (integers.shape[axis],):
            return None
        shape = [-1 if a == axis else 1 for a in range(integers.ndim)]
        if scale.dtype != np.float32 and (scale.dtype != np.float16 or integers.dtype.itemsize == 2):
            return None  # the floats have fewer bits than the integers
        explicit = len(parameters) > 1
        index = self._index[id(node)]
        return Quantized(index, source, integers, scale.reshape(shape), zero.reshape(shape), axis, explicit)

    def _read_narrowed(self, name: str) -> Narrowed | None:
        node, value = self._makers.get(name), self.value_by_name(name) if name in self.static else None
        if node is None or node.op != "Cast" or value is None or len(self.consumers(name)) != 1:
            return None
        leaf, floats = node.inputs[0].name, self.value(node.inputs[0])
        if len(self.consumers(leaf)) != 1 or not (leaf in self.initializers or self._is_constant_node(leaf)):
            return None
        if floats is None or floats.dtype.name not in FLOATS or floats.dtype.itemsize >= value.dtype.itemsize:
            return None
        return Narrowed(self._index[id(node)], floats.dtype)

    def _scale_and_zero(self, node: gs.Node) -> list[Array]:
        values = (self.value(t) for t in node.inputs[1:])
        return [v for v in values if v is not None]

    def follows_inputs(self, name: str) -> bool:
        """Whether a derived value changes with the sizes of the inputs."""
        others = [self.other_value(name), self._tiny.get(name)]
        return any(other is not None and not np.array_equal(other, self._values[name]) for other in others)

    @cached_property
    def _tiny(self) -> dict[str, Array]:
        """Derived values where every size that follows the inputs is 1: min(T, 3) shows itself only for a small T."""
        if self.other is None:
            return {}
        shapes = {
            name: tuple(1 if self.is_resized(name, a) else n for a, n in enumerate(s))
            for name, s in self.shapes.items()
        }
        try:
            return self.values_under(shapes)
        except InputError:
            return {}

    def other_value(self, name: str) -> Array | None:
        """The value of a derived tensor under the other sizes, None where there are none."""
        return None if self.other is None else self._elsewhere[1].get(name)

    def is_resized(self, name: str, axis: int) -> bool:
        """Whether the size of an axis follows the sizes of the inputs, or is 0."""
        shape, other = self.shapes[name], self.other_shape(name) or self.shapes[name]
        return shape[axis] == 0 or len(shape) != len(other) or shape[axis] != other[axis]

    def other_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor under the other sizes, None where there are none."""
        return None if self.other is None else self._elsewhere[0][name]

    @property
    def all_shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """The shapes on the feed, and under the other sizes where there are any."""
        return [self.shapes] if self.other is None else [self.shapes, self._elsewhere[0]]

    @cached_property
    def _elsewhere(self) -> tuple[dict[str, tuple[int, ...]], dict[str, Array]]:
        assert self.other is not None
        shapes = self._probe(self.other)
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

    def is_inside(self, name: str) -> bool:
        """Whether a tensor belongs to a copy of a body."""
        return name.startswith(self.inside)

    def consumers(self, name: str) -> list[tuple[int, int]]:
        """(node index, input index) of every use of a tensor at the top level."""
        return self._uses.get(name, [])

    def maker(self, name: str) -> int | None:
        """Index of the node that makes a tensor at the top level; None of inputs and initializers."""
        return self._index[id(self._makers[name])] if name in self._makers else None

    def captured(self) -> Iterator[str]:
        """Names of outer tensors that If, Loop and Scan bodies read."""
        for node in self.nodes:
            for attribute in node.attrs.values():
                if isinstance(attribute, gs.Graph):
                    yield from _names_inside(attribute)

    @cached_property
    def read_outside(self) -> set[str]:
        """Names that are outputs of the graph or that a body reads."""
        return {t.name for t in self.graph.outputs} | set(self.captured())

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
        prefix = Names.of(self.model.graph).prefix("__shape", "_")
        for index, name in enumerate(names):
            probe.graph.node.add(op_type="Shape", input=[name], output=[f"{prefix}{index}"])
            probe.graph.output.add(name=f"{prefix}{index}")
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
                continue
            proto = self._plain_cast(proto)
            graph.node.append(proto)
            needed.update(proto.input)
            wanted += outputs
        if not wanted:
            return dict(feed)
        graph.initializer.extend(t for t in self.model.graph.initializer if t.name in needed)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        fed = {name: value for name, value in feed.items() if name in needed}
        graph.input.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, None) for n in fed)
        model = onnx.ModelProto(
            ir_version=max(self.model.ir_version, 4),
            graph=graph,
            opset_import=self.model.opset_import,
            functions=self.model.functions,
        )
        found = run(session(model, optimize=False), wanted, fed)
        dense = [(name, value) for name, value in zip(wanted, found, strict=True) if isinstance(value, np.ndarray)]
        return feed | {name: value for name, value in dense if value.size <= LARGE}


def _is_weight(kind: np.dtype[Any]) -> bool:
    """Floats, bfloat16 among them, and integers of a byte."""
    return kind.kind in "fV" or (kind.kind in "iu" and kind.itemsize == 1)


def _shape_value(node: onnx.NodeProto, shape: tuple[int, ...]) -> Array:
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Size":
        return np.asarray(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    return np.asarray(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], dtype=np.int64)


def _sparse_sizes(model: onnx.ModelProto) -> dict[str, int]:
    kind = onnx.AttributeProto.SPARSE_TENSOR
    found = [(t.values.name, t) for t in model.graph.sparse_initializer]
    found += [(n.output[0], a.sparse_tensor) for n in model.graph.node for a in n.attribute if a.type == kind]
    return {name: prod(tensor.dims) for name, tensor in found}


def _names_inside(body: gs.Graph) -> Iterator[str]:
    for node in body.nodes:
        yield from (t.name for t in node.inputs)
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Graph):
                yield from _names_inside(attribute)
    yield from (t.name for t in body.outputs)
