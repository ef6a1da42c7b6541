"""The pieces of one block in a model that was written: what makes a tensor, looked at from behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx_condense.model.held import numbers


@dataclass(frozen=True, eq=False)
class Pieces:
    """node: the block as it was. nodes, makers, weights: of the model that was written."""

    node: onnx.NodeProto
    nodes: Sequence[onnx.NodeProto]
    makers: Mapping[str, int]
    weights: Mapping[str, onnx.TensorProto]

    def made(self, name: str, op: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is of that operator."""
        index = self.makers.get(name)
        return None if index is None or self.nodes[index].op_type != op else self.nodes[index]

    def weight_of(self, node: onnx.NodeProto) -> int | None:
        """Which one of two operands is an initializer."""
        found = [place for place, name in enumerate(node.input) if name in self.weights]
        return found[0] if len(found) == 1 and len(node.input) == 2 else None

    def integers(self, name: str) -> list[int]:
        """The integers [n] that a constant holds; none where it is no constant."""
        tensor = self.weights.get(name)
        if tensor is None and (maker := self.made(name, "Constant")) is not None:
            tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
        return [] if tensor is None else numbers(tensor).reshape(-1).tolist()

    def again(self, inputs: Sequence[str], changed: Sequence[onnx.AttributeProto] = ()) -> onnx.NodeProto:
        """The block with other inputs, and with other attributes."""
        result = onnx.NodeProto()
        result.CopyFrom(self.node)
        given = trimmed(inputs)
        result.input[:] = [*given, *[""] * (len(self.node.input) - len(given))]
        names = {attribute.name for attribute in changed}
        del result.attribute[:]
        result.attribute.extend(a for a in self.node.attribute if a.name not in names)
        result.attribute.extend(changed)
        return result


def trimmed(inputs: Sequence[str]) -> list[str]:
    """Inputs without those at the end that are left out."""
    end = max((place for place, name in enumerate(inputs, 1) if name), default=0)
    return list(inputs[:end])
