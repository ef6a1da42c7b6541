"""A model that is run stretch by stretch: what comes before all that a choice changes is not run again for it.

A stretch in which a choice changes weights is fed them; the others are as they were, which onnxruntime runs faster.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array, Floats
from onnx_condense.merging.mixing import Blend
from onnx_condense.merging.twin import Turn
from onnx_condense.model import wire
from onnx_condense.model.inputs import Feed
from onnx_condense.model.outputs import arrays
from onnx_condense.model.parts import needed
from onnx_condense.model.protos import read_by
from onnx_condense.model.runtime import Session, run, session
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.nodes import added
from onnx_condense.proving.compare import Results
from onnx_condense.tracing.trace import Trace

Place = tuple[int, int]
"""A node and one of its inputs."""

Known = Mapping[str, Array]
"""Tensors by name."""

STRETCHES = 12
"""Most stretches of a model."""

LAYERS = 4
"""Layers whose weights are fed that there are at least, in each of several stretches."""

DIVIDED = 2**27
"""Bytes of a model that is divided at most: its weights are in memory once more."""

KEPT = 2**27
"""Bytes of what is known between stretches that are remembered at most."""


FIXED = 2**25
"""Bytes of a model whose stretches hold weights that they are fed over and over: what is constant runs faster."""

ASKED = 16
"""Choices of which a stretch knows that it was fed them."""

HELD = 1
"""Choices of which a stretch holds the weights."""

UNKNOWN = 2.0**60
"""Numbers of a tensor of which nobody knows how many they are."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What consumers are given: weights in their original shapes, and what is added to outputs [outputs].

    turning: what is still to be done to rows of weights, and to what is added to what these make.
    """

    folded: Mapping[Place, Array]
    shift: Mapping[int, Floats]
    turning: Mapping[Place, Sequence[Turn | Blend]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Fed:
    """What nodes may be fed: by place and by node, its name and what it is by itself."""

    weights: Mapping[Place, tuple[str, Array]]
    shifts: Mapping[int, tuple[str, Array]]

    @cached_property
    def inputs(self) -> Mapping[int, Sequence[tuple[int, str]]]:
        """Node -> the inputs whose weights it is fed, and their names."""
        found: dict[int, list[tuple[int, str]]] = {}
        for (node, position), (name, _) in self.weights.items():
            found.setdefault(node, []).append((position, name))
        return found

    def among(self, nodes: range) -> Fed:
        """That of some nodes."""
        weights = {place: found for place, found in self.weights.items() if place[0] in nodes}
        return Fed(weights, {node: found for node, found in self.shifts.items() if node in nodes})

    def changes(self, choice: Choice) -> bool:
        """Whether a choice changes any of it."""
        weights = any(place in self.weights for place in (*choice.folded, *choice.turning))
        return weights or any(node in self.shifts for node in choice.shift)

    def values(self, choice: Choice) -> Feed:
        """What is fed for a choice."""
        found = {name: choice.folded.get(place, value) for place, (name, value) in self.weights.items()}
        for node, (name, value) in self.shifts.items():
            shift = choice.shift.get(node)
            found[name] = value if shift is None else np.asarray(shift).astype(value.dtype).reshape(value.shape)
        return found


@dataclass(frozen=True, eq=False)
class Stretch:
    """Nodes that follow each other.

    nodes: their indices. constants: nodes before them that make constants which they read. fed: what they may be fed.
    reads, makes: tensors. leaves: what is known behind it. held: whether it may hold what it is fed.
    """

    model: onnx.ModelProto
    nodes: range
    constants: Sequence[onnx.NodeProto]
    fed: Fed
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    leaves: tuple[str, ...]
    held: bool
    _sessions: dict[bool, Session] = field(default_factory=dict)
    _asked: OrderedDict[Hashable, int] = field(default_factory=OrderedDict)
    _fixed: OrderedDict[Hashable, Session] = field(default_factory=OrderedDict)

    def run(self, known: Known, choice: Choice, key: Hashable = None) -> Known:
        """What is known behind it; key: tells what the choice changes here, None of one that does not come again.

        Raises InputError.
        """
        read, values = {name: known[name] for name in self.reads}, dict[str, Array]()
        if not self.makes:
            made = list[Array]()
        else:
            values = self.fed.values(choice) if self.fed.changes(choice) else {}
            fixed = self._holding(read, values, key) if values and key is not None and self.held else None
            active = self._opened(read, values) if fixed is None else fixed
            made = run(active, self.makes, read | (values if fixed is None else {}))
        found = dict(zip(self.makes, made, strict=True))
        return {name: found[name] if name in found else known[name] for name in self.leaves}

    def _opened(self, read: Known, values: Known) -> Session:
        """What runs these nodes, with what they are fed as inputs."""
        fed = bool(values)
        if fed not in self._sessions:
            self._sessions[fed] = session(self._part(read, values, fixed=False), pooled=False)
        return self._sessions[fed]

    def ask(self, key: Hashable) -> None:
        """Notes that a choice is coming, for whatever feeds."""
        self._asked[key] = self._asked.get(key, 0) + 1
        self._asked.move_to_end(key)
        if len(self._asked) > ASKED:
            self._asked.popitem(last=False)

    def _holding(self, read: Known, values: Known, key: Hashable) -> Session | None:
        """What runs these nodes and holds what they are fed; None where a choice did not come before."""
        if key in self._fixed:
            self._fixed.move_to_end(key)
        elif self._asked.get(key, 0) > 1:
            self._fixed[key] = session(self._part(read, values, fixed=True), pooled=False)
            if len(self._fixed) > HELD:
                self._fixed.popitem(last=False)
        return self._fixed.get(key)

    def _part(self, read: Known, values: Known, fixed: bool) -> onnx.ModelProto:
        """The model of these nodes, fed values or holding them; tensors have the types of known ones, and any shape."""
        mine = self._fed_nodes() if values else self.model.graph.node[self.nodes.start : self.nodes.stop]
        nodes = [*self.constants, *mine]
        given = dict(read) if fixed else {**read, **values}
        held = [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in values.items()] if fixed else []
        asked, graph = read_by(nodes) | set(self.makes), self.model.graph
        part = onnx.GraphProto(
            name=graph.name,
            node=nodes,
            input=[_info(name, value, name in self.reads) for name, value in given.items()],
            output=[onnx.ValueInfoProto(name=name) for name in self.makes],
            initializer=[*(tensor for tensor in graph.initializer if tensor.name in asked - given.keys()), *held],
            sparse_initializer=[t for t in graph.sparse_initializer if t.values.name in asked],
        )
        opsets, functions = self.model.opset_import, self.model.functions
        return onnx.ModelProto(ir_version=self.model.ir_version, opset_import=opsets, functions=functions, graph=part)

    def _fed_nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes, which read what they are fed; shifts are added to what they make."""
        for index in self.nodes:
            node = onnx.NodeProto()
            node.CopyFrom(self.model.graph.node[index])
            for position, name in self.fed.inputs.get(index, ()):
                node.input[position] = name
            if index in self.fed.shifts:
                name, whole = self.fed.shifts[index][0], node.output[0]
                node.output[0] = f"{name}r"
                yield node
                yield added(node.output[0], name, whole, "")
            else:
                yield node


def _info(name: str, value: Array, free: bool) -> onnx.ValueInfoProto:
    """What an input is like; free: of any sizes."""
    shape = [None] * value.ndim if free else value.shape
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)


class Stretches:
    """Runs a model for choices."""

    def __init__(self, stretches: Sequence[Stretch], outputs: Sequence[str]) -> None:
        """outputs: of the model."""
        self._stretches, self._outputs = stretches, outputs
        self._remembered: OrderedDict[Hashable, tuple[Feed, Known]] = OrderedDict()
        self._bytes = 0

    def __call__(self, choice: Choice, parts: Mapping[Hashable, Choice] | None, feeds: Sequence[Feed]) -> Results:
        """The outputs for a choice, feed by feed.

        parts: what it is made of, by what tells them apart; of None nothing is remembered.
        """
        own: list[frozenset[Hashable]] = []
        for stretch in self._stretches if parts is not None else ():
            assert parts is not None
            own.append(frozenset(name for name, part in parts.items() if stretch.fed.changes(part)))
            stretch.ask(own[-1])
        return [self._run(choice, own, feed) for feed in feeds]

    def _run(self, choice: Choice, own: Sequence[frozenset[Hashable]], feed: Feed) -> dict[str, Array]:
        """The outputs for a feed; own: which parts of the choice change something in each stretch."""
        known: Known = feed
        before = [frozenset[Hashable]().union(*own[:end]) for end in range(1, len(own))]
        keys = [(number, key, id(feed)) for number, key in enumerate(before)]
        start = next((number + 1 for number, *_ in reversed(keys) if keys[number] in self._remembered), 0)
        if start:
            self._remembered.move_to_end(keys[start - 1])
            known = self._remembered[keys[start - 1]][1]
        for number, stretch in enumerate(self._stretches[start:], start):
            known = stretch.run(known, choice, own[number] if own else None)
            if number < len(keys):
                self._remember(keys[number], feed, known)
        return arrays(self._outputs, [known[name] for name in self._outputs])

    def _remember(self, key: Hashable, feed: Feed, known: Known) -> None:
        self._remembered[key] = feed, known  # the feed, so that no other one is told by its place in memory
        self._bytes += _bytes(known)
        while self._bytes > KEPT:
            _, (_, old) = self._remembered.popitem(last=False)
            self._bytes -= _bytes(old)


def _bytes(known: Known) -> int:
    return sum(value.nbytes for value in known.values())


def divided(trace: Trace, model: onnx.ModelProto, fed: Fed, samples: int, most: int) -> Stretches:
    """A model in stretches, of about as much work.

    samples: for which it is remembered what is known between stretches. most: stretches.
    """
    nodes, outputs = len(model.graph.node), [output.name for output in model.graph.output]
    batch = max([1, *(len(value) for value in trace.facts.feed.values() if value.ndim)])
    alive = _alive(trace, model) * (4 * samples / batch)
    layers = len({node for node, _ in fed.weights})
    count = 1 if wire.size(model) > DIVIDED else max(1, min(most, layers // LAYERS))
    ends = [0, *_cuts(_work(trace), alive, count), nodes]
    if 2 * alive[ends[1:-1]].sum() > KEPT:
        ends = [0, nodes]
    static = trace.facts.static | {tensor.name for tensor in model.graph.initializer}
    static |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    known = {value.name for value in model.graph.input} - static
    stretches, held = [], wire.size(model) <= FIXED
    for start, end in pairwise(ends):
        mine = model.graph.node[start:end]
        read, later = read_by(mine), read_by(model.graph.node[end:]) | set(outputs)
        made = {name for node in mine for name in node.output if name}
        before = static & (read if end < nodes else read | set(outputs)) - made
        made -= static
        if end == nodes:
            made |= set(outputs) - known  # constants among them
        reads, makes = tuple(sorted(known & read)), tuple(sorted(made & later))
        known = (known | made) & later
        among, fixed = range(start, end), needed(model, before)
        leaves = tuple(sorted(known))
        stretches.append(Stretch(model, among, fixed, fed.among(among), reads, makes, leaves, held))
    return Stretches(stretches, outputs)


def _work(trace: Trace) -> Floats:
    """[nodes] multiplications of each node by its weights."""
    result = np.ones(len(trace.facts.nodes))
    for index, action in trace.actions.items():
        if trace.linear_map(index) is None and action.reader is None:
            continue
        inputs, output = trace.shapes_at(index)
        result[index] += sum(action.multiplications(p, inputs, output) * prod(inputs[p]) for p in action.weights)
    return result


def _alive(trace: Trace, model: onnx.ModelProto) -> Floats:
    """[nodes + 1] how many numbers are known before each node and read by it or later; infinite where that is open.

    Constants are made where they are read.
    """
    nodes, facts = model.graph.node, trace.facts
    last = {output.name: len(nodes) for output in model.graph.output}
    for index in range(len(nodes) - 1, -1, -1):
        for name in read_by([nodes[index]]):
            last.setdefault(name, index)
    change = np.zeros(len(nodes) + 2)
    for index, node in enumerate(nodes):
        for name in (name for name in node.output if name in last and name not in facts.static):
            size = _size(facts, name)
            change[index + 1] += size
            change[last[name] + 1] -= size
    return np.cumsum(change)[:-1]


def _size(facts: Facts, name: str) -> float:
    """How many numbers a tensor has."""
    if name in facts.shapes:
        return float(prod(facts.shapes[name]))
    value = facts.value_by_name(name)
    return UNKNOWN if value is None else float(value.size)


def _cuts(work: Floats, alive: Floats, count: int) -> list[int]:
    """Before which nodes a model is cut: where least is alive, about where work is shared out evenly."""
    done = np.cumsum(work) / work.sum()
    bounds = np.searchsorted(done, (np.arange(1, 2 * count, 2)) / (2 * count)) + 1
    found = [low + int(np.argmin(alive[low:high])) for low, high in pairwise(bounds.tolist()) if low < high]
    return sorted(set(found))
