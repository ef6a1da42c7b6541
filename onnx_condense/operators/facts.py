"""What is true of a graph before it is traced: concrete shapes, and the values that do not depend on data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_condense.arrays import FLOATS, Array, FloatType, Shape
from onnx_condense.errors import InputError
from onnx_condense.model.held import numbers
from onnx_condense.model.inference import NO_TENSOR, element_types
from onnx_condense.model.inputs import Feed
from onnx_condense.model.protos import opset_of, sparse_shapes
from onnx_condense.model.runtime import run, session
from onnx_condense.model.storage import Narrowed, Quantized
from onnx_condense.model.trial import Trial
from onnx_condense.operators.queries import expected_sizes
from onnx_condense.operators.shapes import Seen, Stuck, measured, probe
from onnx_condense.operators.static import Static, alone
from onnx_condense.operators.stored import is_dequantized, is_stated, read_stored
from onnx_condense.operators.unknown import Unknown
from onnx_condense.operators.wiring import Copy, Wiring


@dataclass(frozen=True)
class Tried:
    """What became known of a model when inputs were sought for it.

    stuck: the axes of inputs that could not be varied. shapes: of tensors inside.
    """

    stuck: Stuck = ()
    shapes: Seen = lambda _: None


class Facts:
    """Shapes and constant values of the tensors of one graph on one feed.

    Attributes:
        graph: the GraphSurgeon graph, nodes in topological order.
        nodes: its nodes; an index into this list names a node for good.
        opset: version of the default operator set.
        feed: values of its inputs.
        copies: of bodies, beside the graph.
        shapes: tensor name -> concrete shape on the feed.
        types: tensor name -> TensorProto.DataType.
        static: names of tensors that follow from constants alone.
        derived: names of tensors that follow from constants and shapes (not from constants alone).
        sparse: name of a sparse constant -> how many numbers it stands for.
        initializers: by name.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        graph: gs.Graph,
        feed: Feed,
        others: Sequence[Feed] = (),
        copies: tuple[Copy, ...] = (),
        tried: Tried | None = None,
    ) -> None:
        """`others`: feeds with other sizes on symbolic axes. tried: what is known of this model by now."""
        self.model = model
        self.graph = graph
        self.feed = feed
        self.others = tuple(others)
        self.copies = copies
        self._prefixes = tuple(copy.prefix for copy in copies)
        self._tried = tried or Tried()
        self.stuck = self._tried.stuck
        self.opset = opset_of(model.opset_import)
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.sparse = sparse_shapes(model)
        self.types = element_types(model)
        self._wiring = Wiring(graph)
        self.nodes = self._wiring.nodes
        self._static = Static.of(model, self.nodes, self.types)
        self.static, self.derived = self._static.constant, self._static.derived
        self._values: dict[str, Array] = {}
        self._stored: dict[str, Quantized | Narrowed | None] = {}
        (self.shapes,) = self._probe([feed])
        self.shapes |= self.sparse
        self._values.update(self._static.values(self.shapes))

    def _probe(self, feeds: Sequence[Feed]) -> list[dict[str, Shape]]:
        return probe(self.model, data_of(self.nodes, self._static, self.types), feeds, self._tried.shapes)

    # ---- values

    def value(self, tensor: gs.Tensor) -> Array | None:
        """The value, of any shape, of a tensor that no data reaches, else None."""
        return self.value_by_name(tensor.name)

    def value_by_name(self, name: str) -> Array | None:
        """As `value`, of any shape, for a name."""
        if name not in self._values and name in self.initializers:
            self._values[name] = numbers(self.initializers[name])
        return self._values.get(name)

    def _constant(self, name: str) -> Array | None:
        """The value of a tensor that follows from constants alone, else None."""
        return self.value_by_name(name) if name in self.static else None

    def evaluate(self, index: int, values: Array) -> Array:
        """[n] -> [n]: runs one node of the graph, whose other inputs are constant, on numbers."""
        proto = self.model.graph.node[index]
        data = next(n for n in proto.input if n not in self.static)
        constants = {n: self.value_by_name(n) for n in proto.input if n in self.static and n}
        kinds = [numpy_helper.from_array(v, n) for n, v in constants.items() if v is not None]
        kind = self.types.get(data, kinds[0].data_type if kinds else onnx.TensorProto.FLOAT)
        inputs, outputs = (
            [helper.make_tensor_value_info(data, kind, [None])],
            [onnx.ValueInfoProto(name=proto.output[0])],
        )
        model = alone(self.model, helper.make_graph([proto], "one", inputs, outputs, kinds))
        feed = {data: values.astype(helper.tensor_dtype_to_np_dtype(kind))}
        return run(session(model, optimize=False), None, feed)[0].astype(np.float64)

    def parameters(self, tensors: Iterable[gs.Tensor]) -> int:
        """How many numbers the weights among these tensors hold: constant matrices and kernels, floats or bytes."""
        names = [t.name for t in tensors]
        values = map(self._constant, names)
        dense = sum(v.size for v in values if v is not None and v.ndim > 1 and _is_weight(v.dtype))
        return dense + sum(prod(self.sparse[name]) for name in names if name in self.sparse)

    # ---- how constants are stored

    def is_generated(self, name: str) -> bool:
        """Whether a constant takes far less room in the file than as an initializer (ConstantOfShape, Expand)."""
        value = self.value_by_name(name)
        if value is None or name in self.initializers:
            return False
        leaves = [n for n in self.upstream(name) | {name} if is_stated(self._wiring.made_by(n))]
        return 2 * sum(v.size for v in map(self.value_by_name, leaves) if v is not None) < value.size

    def stored(self, name: str) -> Quantized | Narrowed | None:
        """How a constant is stored that one node makes, for one reader, of what takes less room; else None."""
        if name not in self._stored:
            known = name in self.static
            self._stored[name] = read_stored(name, self._wiring, self.value_by_name) if known else None
        return self._stored[name]

    def float_type(self, name: str) -> FloatType | None:
        """The type that the numbers of a constant of floats were rounded to, None for every other tensor."""
        value, stored = self._constant(name), self.stored(name)
        if isinstance(stored, Narrowed):
            return FLOATS[stored.kind.name]
        return FLOATS.get(value.dtype.name) if value is not None else None

    def is_locked(self, name: str) -> bool:
        """Whether a constant follows from integers in a way in which it could not be sliced and stay integers."""
        value = self._constant(name)
        if value is None or value.size < 2 or isinstance(self.stored(name), Quantized):
            return False
        return any(is_dequantized(self._wiring.made_by(n)) for n in self.upstream(name) | {name})

    # ---- other sizes of the inputs

    def follows_inputs(self, name: str) -> bool:
        """Whether a derived value changes with the sizes of the inputs, or may."""
        others = [*self.other_values(name), *(tiny for tiny in [self._tiny.get(name)] if tiny is not None)]
        return self.may_follow(name) or any(not np.array_equal(other, self._values[name]) for other in others)

    def is_settled(self, name: str) -> bool:
        """Whether floats are computed from shapes of inputs alone, and never change."""
        value = self._values.get(name)
        if name not in self.derived or value is None or value.dtype.kind != "f" or self.follows_inputs(name):
            return False
        return self.measured(name) <= {tensor.name for tensor in self.graph.inputs}

    def may_follow(self, name: str) -> bool:
        """Whether a derived value may change with sizes of the inputs that could not be varied."""
        return name in self.derived and self._unknown.follows(name)

    @cached_property
    def _unknown(self) -> Unknown:
        return Unknown(self._static, self.shapes, self._values, self.stuck, self._prefixes, self._implied)

    def _implied(self, name: str) -> dict[int, int]:
        """Sizes of a tensor's axes that the weights of its readers allow."""
        readers = [self.nodes[index] for index, _ in self.consumers(name)]
        weights = [tensor.name for node in readers for tensor in node.inputs[1:2] if tensor.name in self.static]
        values = {weight: self.value_by_name(weight) for weight in weights}
        return expected_sizes(readers, name, {n: tuple(v.shape) for n, v in values.items() if v is not None})

    @cached_property
    def _tiny(self) -> dict[str, Array]:
        """Derived values where every size that follows the inputs is 1: min(T, 3) shows itself only for a small T."""
        if not self.others:
            return {}
        shapes = {
            name: tuple(1 if self.is_resized(name, a) else n for a, n in enumerate(s))
            for name, s in self.shapes.items()
        }
        try:
            return self.values_under(shapes)
        except InputError:
            return {}

    def other_values(self, name: str) -> list[Array]:
        """The values, of any shape, of a derived tensor under the other sizes."""
        return [values[name] for _, values in self._elsewhere if name in values]

    def is_resized(self, name: str, axis: int) -> bool:
        """Whether the size of an axis follows the sizes of the inputs, or may, or is 0."""
        shape = self.shapes[name]
        varies = any(len(shape) != len(other) or shape[axis] != other[axis] for other in self.other_shapes(name))
        return shape[axis] == 0 or varies or self.is_unknown(name, axis)

    def is_unknown(self, name: str, axis: int) -> bool:
        """Whether the size of an axis may follow sizes of the inputs that could not be varied."""
        return axis in self._unknown.axes(name)

    def other_shapes(self, name: str) -> list[Shape]:
        """The shapes of a tensor under the other sizes."""
        return [shapes[name] for shapes, _ in self._elsewhere]

    @property
    def all_shapes(self) -> list[dict[str, Shape]]:
        """The shapes on the feed, and under the other sizes where there are any."""
        return [self.shapes, *(shapes for shapes, _ in self._elsewhere)]

    @cached_property
    def _elsewhere(self) -> list[tuple[dict[str, Shape], dict[str, Array]]]:
        """Shapes and derived values, for each of the other feeds."""
        return [(shapes, self.values_under(shapes)) for shapes in self._probe(self.others)]

    def changing(self, name: str) -> NDArray[np.bool_]:
        """Which elements of a derived value change with the sizes of the inputs, or may."""
        value = self._values[name]
        found = self._unknown.changing(name) if name in self.derived else np.zeros(value.shape, dtype=bool)
        for other in self.other_values(name):
            found = found | (other != value if other.shape == value.shape else True)
        return np.asarray(found)

    def values_under(self, shapes: Mapping[str, Shape]) -> dict[str, Array]:
        """The shape-derived values, of any shape, that other shapes lead to."""
        return self._static.derived_values(shapes)

    # ---- which nodes make and read what

    def is_inside(self, name: str) -> bool:
        """Whether a tensor belongs to a copy of a body."""
        return name.startswith(self._prefixes)

    def consumers(self, name: str) -> list[tuple[int, int]]:
        """(node index, input index) of every use of a tensor at the top level."""
        return self._wiring.consumers(name)

    def maker(self, name: str) -> int | None:
        """Index of the node that makes a tensor at the top level; None of inputs and initializers."""
        return self._wiring.maker(name)

    def upstream(self, name: str) -> set[str]:
        """Every tensor that a constant or derived tensor is computed from; data counts where its shape is taken."""
        return self._wiring.upstream(name, self._static.known)

    def measured(self, name: str) -> set[str]:
        """The tensors of data whose shapes a derived tensor follows from."""
        known = self._static.known
        return (
            {n for n in self.upstream(name) if n in self.shapes and n not in known} if name in self.derived else set()
        )

    def captured(self) -> Iterator[str]:
        """Names of outer tensors that bodies read which have no copy; a copy is traced as the body is."""
        return self._wiring.captured(self.copies)

    @property
    def read_outside(self) -> set[str]:
        """Names that are outputs of the graph or that a body reads."""
        return self._wiring.read_outside


def data_of(nodes: Iterable[gs.Node], static: Static, types: Mapping[str, int]) -> list[str]:
    """The tensors that data reaches and that have a shape."""
    outputs = [t.name for node in nodes for t in node.outputs if t.name]
    return [name for name in outputs if name not in static.known and types.get(name) != NO_TENSOR]


def trial_of(model: onnx.ModelProto, graph: gs.Graph) -> Trial:
    """What runs a model, and by the way sees the shapes that its facts ask for."""
    types, nodes = element_types(model), Wiring(graph).nodes
    return measured(model, data_of(nodes, Static.of(model, nodes, types), types))


def _is_weight(kind: np.dtype[Any]) -> bool:
    """Floats, bfloat16 among them, and integers of a byte."""
    return kind.kind in "fV" or (kind.kind in "iu" and kind.itemsize == 1)
