"""Which nodes of a graph make and read a tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from typing import NamedTuple

import onnx_graphsurgeon as gs


class Copy(NamedTuple):
    """A copy of a body beside the graph.

    prefix: of its tensors. holder: a tensor that the node with the body makes. attribute: that holds the body.
    """

    prefix: str
    holder: str
    attribute: str


class Wiring:
    """The nodes of a graph, in topological order, and the tensors between them."""

    def __init__(self, graph: gs.Graph) -> None:
        self.nodes: list[gs.Node] = list(graph.nodes)
        self._outputs = {t.name for t in graph.outputs}
        self._makers = {t.name: index for index, node in enumerate(self.nodes) for t in node.outputs if t.name}
        self._uses: dict[str, list[tuple[int, int]]] = {}
        for index, node in enumerate(self.nodes):
            for position, tensor in enumerate(node.inputs):
                if tensor.name:
                    self._uses.setdefault(tensor.name, []).append((index, position))

    def consumers(self, name: str) -> list[tuple[int, int]]:
        """(node index, input index) of every use of a tensor at the top level."""
        return self._uses.get(name, [])

    def maker(self, name: str) -> int | None:
        """Index of the node that makes a tensor at the top level; None of inputs and initializers."""
        return self._makers.get(name)

    def made_by(self, name: str) -> gs.Node | None:
        """The node that makes a tensor at the top level; None of inputs and initializers."""
        index = self.maker(name)
        return None if index is None else self.nodes[index]

    def upstream(self, name: str, through: Collection[str]) -> set[str]:
        """Every tensor that one is computed from, as far as those lead that are in `through`."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            node = self.made_by(waiting.pop())
            for tensor in node.inputs if node is not None else ():
                if tensor.name and tensor.name not in found:
                    found.add(tensor.name)
                    if tensor.name in through:
                        waiting.append(tensor.name)
        return found

    def captured(self, copies: Collection[Copy] = ()) -> Iterator[str]:
        """Names of outer tensors that If, Loop and Scan bodies read, but for those of which there are copies."""
        copied = {(copy.holder, copy.attribute) for copy in copies}
        for node in self.nodes:
            for name, attribute in node.attrs.items():
                if isinstance(attribute, gs.Graph) and not any((t.name, name) in copied for t in node.outputs):
                    yield from _names_inside(attribute)

    @cached_property
    def read_outside(self) -> set[str]:
        """Names that are outputs of the graph or that a body reads."""
        return self._outputs | set(self.captured())


def _names_inside(body: gs.Graph) -> Iterator[str]:
    for node in body.nodes:
        yield from (t.name for t in node.inputs)
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Graph):
                yield from _names_inside(attribute)
    yield from (t.name for t in body.outputs)
