"""Which nodes of a twin read, or make, something else than in the original model."""

from __future__ import annotations

from onnx_condense.merging.twin import Twin


class Changed:
    """What is known of that, as one layer after the other is looked at."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        self._same: set[int] = set()

    def found(self, node: int, same: bool) -> None:
        """Whether a node was found to make what it made in the original."""
        if same:
            self._same.add(node)

    def reads(self, node: int) -> bool:
        """Whether what a node reads may be another."""
        names = {tensor.name for tensor in self._twin.trace.facts.nodes[node].inputs}
        return not names.isdisjoint(self._tensors(node))

    def _tensors(self, until: int) -> set[str]:
        """Names of what nodes before one make that may be other than it was."""
        twin, found = self._twin, set[str]()
        own = {node for node, _ in (*twin.folded, *twin.factors, *twin.turns)} | set(twin.shift)
        for index, node in enumerate(twin.trace.facts.nodes[:until]):
            if index in self._same:
                continue
            if index in own or any(tensor.name in found for tensor in node.inputs):
                found.update(tensor.name for tensor in node.outputs if tensor.name)
        return found
