"""Names of tensors and of nodes: the one authority for fresh ones."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, count

import onnx

from onnx_condense.model.protos import names_in


class Names:
    """The names that are taken in a graph. Every name that it gives is taken from then on."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    @staticmethod
    def of(graph: onnx.GraphProto) -> Names:
        """The names of every tensor of a graph, of those in its bodies too."""
        return Names(names_in(graph))

    @staticmethod
    def of_nodes(graph: onnx.GraphProto) -> Names:
        """The names of its nodes, which onnxruntime wants apart."""
        return Names(node.name for node in graph.node)

    def fresh(self, stem: str) -> str:
        """The stem, or with a number, as a name that is free."""
        candidates = chain([stem], (f"{stem}_{i}" for i in count(1)))
        name = next(name for name in candidates if name not in self._taken)
        self._taken.add(name)
        return name

    def take(self, names: Iterable[str]) -> None:
        """These are taken, too."""
        self._taken.update(names)

    def prefix(self, stem: str, end: str) -> str:
        """The stem, or with a number, and the end, as what no name begins with."""
        candidates = chain([f"{stem}{end}"], (f"{stem}{i}{end}" for i in count()))
        prefix = next(p for p in candidates if not any(name.startswith(p) for name in self._taken))
        self._taken.add(prefix)
        return prefix
