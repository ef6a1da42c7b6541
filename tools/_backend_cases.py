"""The cases of the ONNX backend suite, as they come, and as models that hold weights."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test import loader

Arrays = Mapping[str, NDArray[Any]]

ON_DISK = ("simple", "pytorch-converted", "pytorch-operator", "real")
KINDS = ("node", *ON_DISK, "light")
RATIOS = (1.0, 0.5, 2.0)
"""What a planted copy is of its original, in turn."""
LARGEST = 1 << 22
"""Elements of the largest tensor that is frozen in, or planted into."""


@dataclass(frozen=True)
class Case:
    """A model of the suite, or made of one, with the arrays that it takes and gives, where the suite has tensors."""

    name: str
    model: onnx.ModelProto
    feed: Arrays
    outputs: Arrays
    variant: str = "as it is"


def cases(kinds: Collection[str] = KINDS) -> Iterator[Case]:
    """Every case of these kinds whose model is part of the package: nodes, models on disk, and the light ones."""
    if "node" in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = loader.load_model_tests(kind="node")
        for node in nodes:
            yield _case(f"node/{node.name}", node.model, *(node.data_sets or [((), ())])[0])
    for kind in (kind for kind in ON_DISK if kind in kinds):
        for found in loader.load_model_tests(kind=kind):
            if found.model_dir is not None:
                folder = Path(found.model_dir)
                stored = sorted(folder.glob("test_data_set_0"))
                sides = [_tensors(stored, side) for side in ("input", "output")]
                yield _case(f"{kind}/{found.name}", onnx.load(folder / "model.onnx"), *sides)
    for path in sorted(Path(loader.DATA_DIR, "light").glob("*.onnx")) if "light" in kinds else ():
        yield _case(f"light/{path.stem}", onnx.load(path), (), ())


def _tensors(folders: Sequence[Path], side: str) -> list[Any]:
    """What is stored of one side, in order; None for what is no tensor."""
    if not folders:
        return []
    paths = sorted(folders[0].glob(f"{side}_*.pb"), key=lambda p: int(p.stem.rpartition("_")[2]))
    return [_read(path) for path in paths]


def _read(path: Path) -> NDArray[Any] | None:
    tensor = TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)
    except Exception:  # sequences and optionals are other messages
        return None


def _case(name: str, model: onnx.ModelProto, inputs: Sequence[Any], outputs: Sequence[Any]) -> Case:
    pairs = []
    for ports, values in ((model.graph.input, inputs), (model.graph.output, outputs)):
        named = zip((port.name for port in ports), values, strict=False)
        pairs.append({port: value for port, value in named if isinstance(value, np.ndarray)})
    return Case(name, model, *pairs)


# ---------------------------------------------------------------------------------------------------- variants


def frozen(case: Case, keep: int) -> Case | None:
    """The case with all inputs but one (0: the first, -1: the last) as initializers; None where nothing freezes."""
    ports = [port for port in case.model.graph.input if port.name not in _names(case.model)]
    if not ports:
        return None
    kept = ports[keep].name
    gone = {p.name: case.feed[p.name] for p in ports if p.name != kept and _freezes(case.feed.get(p.name))}
    if not gone:
        return None
    model = _copy(case.model)
    ports = [port for port in model.graph.input if port.name not in gone]
    del model.graph.input[:]
    model.graph.input.extend(ports)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in gone.items())
    feed = {name: value for name, value in case.feed.items() if name not in gone}
    which = "first" if keep == 0 else "last"
    return Case(f"{case.name}/frozen-{which}", model, feed, case.outputs, "frozen")


def planted(case: Case, seed: int) -> Case | None:
    """The case with copies of channels, along each of the first two axes, in every weight; None where it has none."""
    generator, model, count = np.random.default_rng(seed), _copy(case.model), 0
    for tensor in model.graph.initializer:
        count += _plant(tensor, generator)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                count += _plant(attribute.t, generator)
    return Case(f"{case.name}/planted", model, case.feed, {}, "planted") if count else None


def between(case: Case, maps: bool, seed: int) -> Case | None:
    """The case between two layers, the first of which makes copies: 1x1 convolutions or products along the last axis.

    None where it has no float input, and no float output, of which such layers can be made.
    """
    made = [(name, value) for name, value in case.feed.items() if _layered(value, maps)]
    read = [(name, value) for name, value in case.outputs.items() if _layered(value, maps) or _layered(value, False)]
    if not made or not read:
        return None
    generator, model = np.random.default_rng(seed), _copy(case.model)
    graph = model.graph
    before, after, feed = [], [], dict(case.feed)
    for name, value in made:
        axis = 1 if maps else value.ndim - 1
        shape = [*value.shape]
        shape[axis] = 4
        port = next(p for p in graph.input if p.name == name)
        port.CopyFrom(helper.make_tensor_value_info(f"{name}.before", TensorProto.FLOAT, shape))
        rows = generator.standard_normal((value.shape[axis], 4)) / 2
        _copies(rows, generator)
        before.append(_layer(graph, f"{name}.before", name, rows, maps and value.ndim - 2))
        feed.pop(name)
        feed[f"{name}.before"] = generator.standard_normal(shape).astype(np.float32)
    for name, value in read:
        wide = maps and _layered(value, True)
        rows = generator.standard_normal((3, value.shape[1 if wide else -1]))
        index = next(i for i, p in enumerate(graph.output) if p.name == name)
        after.append(_layer(graph, name, f"{name}.after", rows, wide and value.ndim - 2))
        graph.output[index].CopyFrom(helper.make_tensor_value_info(f"{name}.after", TensorProto.FLOAT, None))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    how = "maps" if maps else "rows"
    return Case(f"{case.name}/between-{how}", model, feed, {}, "between layers")


def variants(case: Case, seed: int) -> Iterator[Case]:
    """The case itself, and all that is made of it."""
    yield case
    holding = [case]
    for keep in (0, -1):
        found = frozen(case, keep)
        if found is not None and not (keep and len(case.feed) < 2):
            holding.append(found)
            yield found
    for held in holding:
        for made in (planted(held, seed), between(held, False, seed), between(held, True, seed)):
            if made is not None:
                yield made


# ---------------------------------------------------------------------------------------------------- parts


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _names(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def _freezes(value: NDArray[Any] | None) -> bool:
    return value is not None and value.size <= LARGEST


def _layered(value: NDArray[Any], maps: bool) -> bool:
    """Whether a layer can make, or read, a tensor; `maps`: a 1x1 convolution."""
    ranks = range(3, 6) if maps else range(1, 10)
    return value.dtype == np.float32 and 0 < value.size <= LARGEST and value.ndim in ranks


def _layer(graph: onnx.GraphProto, data: str, made: str, rows: NDArray[Any], spatial: int) -> onnx.NodeProto:
    """A 1x1 convolution over so many axes, or with 0 of them a product along the last axis; rows [outputs, inputs]."""
    value = rows.reshape(*rows.shape, *(1,) * spatial) if spatial else rows.T
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), f"{made}.weight"))
    return helper.make_node("Conv" if spatial else "MatMul", [data, f"{made}.weight"], [made], name=f"{made}.layer")


def _plant(tensor: TensorProto, generator: np.random.Generator) -> bool:
    """Whether copies were planted in a tensor."""
    if tensor.data_type != TensorProto.FLOAT or max(tensor.dims, default=0) < 2 or np.prod(tensor.dims) > LARGEST:
        return False
    value = numpy_helper.to_array(tensor).copy()
    for axis in range(min(2, value.ndim)):
        _copies(np.moveaxis(value, axis, 0), generator)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return True


def _copies(rows: NDArray[Any], generator: np.random.Generator) -> None:
    """Makes half of the rows [n, ...] multiples of others, in place."""
    order = generator.permutation(len(rows))
    half = len(rows) // 2
    for number, (copy, main) in enumerate(zip(order[:half], order[half:], strict=False)):
        rows[copy] = RATIOS[number % len(RATIOS)] * rows[main]
