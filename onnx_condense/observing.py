"""Runs models for what their consumers read: tensors inside a graph, windows of a convolution, synthetic inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.inputs import Feed
from onnx_condense.runtime import Array, run, session, to_bytes
from onnx_condense.signals import Ints

Model = onnx.ModelProto

PINK = 1.0
"""Exponent of the amplitude spectrum 1 / frequency of synthetic images, as natural images have it."""

GREY = 0.9
"""Share of a synthetic image's variance that its colours have in common."""


def needed(model: onnx.ModelProto, names: Iterable[str], known: Collection[str] = ()) -> list[onnx.NodeProto]:
    """The nodes that compute some tensors of a model from those that are known."""
    makers = {output: node for node in model.graph.node for output in node.output if output}
    found: set[int] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        node = makers.get(name) if name not in known else None
        if node is not None and id(node) not in found:
            found.add(id(node))
            waiting += read_by(node)
    return [node for node in model.graph.node if id(node) in found]


def prefix(model: onnx.ModelProto, names: Sequence[str], known: Collection[str] = ()) -> onnx.ModelProto:
    """The part of a model that computes some of its tensors, from those that are known; they are its outputs."""
    nodes = needed(model, names, known)
    read = {value.name for value in model.graph.input} | set(names)
    read.update(name for node in nodes for name in read_by(node))
    graph = onnx.GraphProto(
        name=model.graph.name,
        node=nodes,
        input=model.graph.input,
        output=[onnx.ValueInfoProto(name=name) for name in names],
        value_info=model.graph.value_info,
        initializer=[tensor for tensor in model.graph.initializer if tensor.name in read],
        sparse_initializer=[t for t in model.graph.sparse_initializer if t.values.name in read],
    )
    opsets, functions = model.opset_import, model.functions
    return onnx.ModelProto(ir_version=model.ir_version, opset_import=opsets, functions=functions, graph=graph)


def _bodies(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [body for body in (attribute.g, *attribute.graphs) if body.node]


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, in its bodies, too."""
    yield from node.input
    for body in (body for attribute in node.attribute for body in _bodies(attribute)):
        yield from (output.name for output in body.output)
        yield from (name for inner in body.node for name in read_by(inner))


def with_inputs(part: bytes, known: Mapping[str, Array]) -> onnx.ModelProto:
    """A part of a model with inputs of these types, and no others but those that have a default."""
    model = onnx.ModelProto.FromString(part)
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name in defaults]
    for name, value in known.items():
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None))
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


@dataclass(frozen=True)
class Probe:
    """The part of a model that computes some of its tensors, as bytes: a worker in another process can run it.

    names: the tensors. given: which of them are inputs of the model. part: "" where all are.
    """

    names: tuple[str, ...]
    given: frozenset[str]
    part: bytes

    @staticmethod
    def of(model: onnx.ModelProto, names: Sequence[str]) -> Probe:
        """Raises InputError where the part is larger than protobuf allows."""
        inputs = {value.name for value in model.graph.input}
        inner = [name for name in dict.fromkeys(names) if name not in inputs]
        return Probe(tuple(dict.fromkeys(names)), frozenset(inputs), to_bytes(prefix(model, inner)) if inner else b"")

    def __call__(self, feeds: Iterable[Feed]) -> Iterator[Mapping[str, Array]]:
        """The values of the tensors, feed by feed. Raises InputError."""
        active = session(self.part) if self.part else None
        read = {value.name for value in active.get_inputs()} if active is not None else set()
        inner = [name for name in self.names if name not in self.given]
        for feed in feeds:
            known = {name: feed[name] for name in self.names if name in self.given}
            fed = {name: value for name, value in feed.items() if name in read}
            found = run(active, inner, fed) if active is not None else []
            yield known | dict(zip(inner, found, strict=True))


def observe(model: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Feed]) -> Iterator[Mapping[str, Array]]:
    """The values of tensors inside a model, feed by feed. Raises InputError."""
    return Probe.of(model, names)(feeds)


class Windows:
    """Which places of its input a convolution multiplies at each output place: onnxruntime itself says so.

    A convolution of one channel with the same attributes, whose kernels pick one tap each, is fed the places' numbers.
    """

    def __init__(self, model: onnx.ModelProto, index: int, kernel: Sequence[int]) -> None:
        """`index`: of the Conv among the model's nodes. `kernel`: its spatial sizes."""
        self._node, self._kernel = model.graph.node[index], tuple(kernel)
        self._opsets = list(model.opset_import)
        self._places: dict[tuple[int, ...], Ints] = {}

    def places(self, sizes: tuple[int, ...]) -> Ints:
        """[output places, taps]: numbers of input places, all axes flattened; -1 beyond the border.

        `sizes`: of the input's spatial axes, whose product is below 2**24 (float32 counts that far).
        """
        if sizes not in self._places:
            numbers = np.arange(1, np.prod(sizes) + 1, dtype=np.float32).reshape(1, 1, *sizes)
            (found,) = run(session(self._picking()), None, {"x": numbers})
            self._places[sizes] = found.reshape(found.shape[1], -1).T.astype(np.int64) - 1
        return self._places[sizes]

    def _picking(self) -> onnx.ModelProto:
        taps = int(np.prod(self._kernel))
        picks = np.eye(taps, dtype=np.float32).reshape(taps, 1, *self._kernel)
        node = onnx.NodeProto(op_type="Conv", input=["x", "w"], output=["y"])
        node.attribute.extend(a for a in self._node.attribute if a.name != "group")
        graph = helper.make_graph(
            [node],
            "windows",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None] * (2 + len(self._kernel)))],
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(picks, "w")],
        )
        return onnx.ModelProto(ir_version=8, graph=graph, opset_import=self._opsets)


def standardized(
    model: onnx.ModelProto,
    normalizations: Mapping[int, tuple[int, int, float]],
    centred: Mapping[int, tuple[int, int, int]],
) -> onnx.ModelProto:
    """A model that takes the statistics of the batch that it is fed.

    On any inputs every normalized channel then has the mean (shift) and the deviation (|scale|) that it had in
    training. Written as InstanceNormalization of [1, channels, everything else], since onnxruntime does not train.

    Args:
        normalizations: BatchNormalizations, node index -> (rank of the input, channels, epsilon).
        centred: nodes whose outputs get mean zero per channel,
            node index -> (rank of the output, its channel axis, channels).
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    add = result.graph.node.append
    for number, node in enumerate(model.graph.node):
        if number in normalizations:
            rank, channels, epsilon = normalizations[number]
            lines, back = _lines(result.graph, number, node.input[0], node.output[0], rank, 1, channels)
            even = f"__even_{number}"
            inputs = [lines, *node.input[1:3]]
            add(helper.make_node("InstanceNormalization", inputs, [even], epsilon=epsilon))
            result.graph.node.extend(back(even))
        elif number in centred:
            rank, axis, channels = centred[number]
            raw = f"__raw_{number}"
            add(_renamed(node, raw))
            lines, back = _lines(result.graph, number, raw, node.output[0], rank, axis, channels)
            mean, even = f"__mean_{number}", f"__even_{number}"
            add(_mean(result, number, lines, mean))
            add(helper.make_node("Sub", [lines, mean], [even]))
            result.graph.node.extend(back(even))
        else:
            add(node)
    return result


def _mean(model: onnx.ModelProto, number: int, data: str, output: str) -> onnx.NodeProto:
    """The mean over the last of three axes, an input of ReduceMean since opset 18."""
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 18:
        return helper.make_node("ReduceMean", [data], [output], axes=[2])
    axes = f"__axes_{number}"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), axes))
    return helper.make_node("ReduceMean", [data, axes], [output])


def _renamed(node: onnx.NodeProto, output: str) -> onnx.NodeProto:
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.output[0] = output
    return result


def _lines(
    graph: onnx.GraphProto, number: int, data: str, output: str, rank: int, axis: int, channels: int
) -> tuple[str, Callable[[str], list[onnx.NodeProto]]]:
    """Adds nodes that bring data to [1, channels, everything else], and says which ones bring it back as `output`."""
    turn = [axis, *(a for a in range(rank) if a != axis)]
    flat, turned, shape, lines, whole = (f"__{part}_{number}" for part in ("flat", "turned", "shape", "lines", "whole"))
    graph.initializer.append(numpy_helper.from_array(np.array([1, channels, -1]), flat))
    graph.node.extend(
        [
            helper.make_node("Transpose", [data], [turned], perm=turn),
            helper.make_node("Shape", [turned], [shape]),
            helper.make_node("Reshape", [turned, flat], [lines]),
        ]
    )

    def back(even: str) -> list[onnx.NodeProto]:
        undo = [int(a) for a in np.argsort(turn)]
        return [
            helper.make_node("Reshape", [even, shape], [whole]),
            helper.make_node("Transpose", [whole], [output], perm=undo),
        ]

    return lines, back


def unbatched(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that says nothing of the size of its inputs' first axes, nor of the shapes that follow."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value in result.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
    return result


def synthetic(feed: Feed, samples: int, seed: int) -> Feed:
    """Inputs like a feed, with so many samples: pink noise for images (rank 4, at least 8x8), else normal numbers.

    Integers and what else is no float are the feed's, repeated.
    """
    generator = np.random.default_rng(seed)
    made: Feed = {}
    for name, value in feed.items():
        shape = (samples, *value.shape[1:]) if value.ndim else ()
        if value.dtype.kind != "f":
            made[name] = np.resize(value, shape)
        elif value.ndim == 4 and min(value.shape[2:]) >= 8:
            made[name] = _pink(generator, shape).astype(value.dtype)
        else:
            made[name] = generator.standard_normal(shape).astype(value.dtype)
    return made


def _pink(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """[n, c, h, w] images of unit variance whose amplitudes fall with frequency."""
    n, c, h, w = shape
    frequency = np.sqrt(np.fft.fftfreq(h)[:, None] ** 2 + np.fft.rfftfreq(w)[None] ** 2)
    frequency[0, 0] = 1 / max(h, w)
    white = GREY**0.5 * generator.standard_normal((n, 1, h, w))
    white = white + (1 - GREY) ** 0.5 * generator.standard_normal((n, c, h, w))
    images = np.fft.irfft2(np.fft.rfft2(white) / frequency**PINK, s=(h, w))
    return np.asarray(images / images.std())
