"""From a twin (the twin's weights and which channels are alive) to a model.

`write(twin, expanded=True)` gives the expanded twin, in the original shapes; `write(twin)` gives the small model, whose
weights are slices of the twin's. Nothing else makes a graph smaller: forms write the same function in other words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from onnx_condense.arrays import Array
from onnx_condense.merging.twin import Twin
from onnx_condense.model.held import Spill, holds
from onnx_condense.model.rebuilt import Part
from onnx_condense.rewriting.drafting import drafted
from onnx_condense.rewriting.kept import Kept
from onnx_condense.rewriting.shapes import shapes_of
from onnx_condense.rewriting.sizes import macs_of
from onnx_condense.rewriting.values import Sliced, sliced_weights


@dataclass(frozen=True)
class Written:
    """A model that was written from a twin.

    traced: the model in the form in which it was traced: copies of bodies in it, operators on integers opened.
    macs: multiply-accumulates of its convolutions, recurrent nodes and matrix products, of data with data too, on the
        traced shapes; those of every body once.
    alive: tensor name -> what of the original's tensor it holds, where it lost something.
    spill: the large weights that are new, in a temporary file, while this object lives.
    factored: nodes whose weights became pairs of factors, by their indices in the graph that was traced.
    """

    model: onnx.ModelProto
    traced: onnx.ModelProto
    macs: int
    alive: Mapping[str, Kept]
    spill: Spill | None = None
    factored: frozenset[int] = frozenset()


def traced(twin: Twin, *parts: Part) -> onnx.ModelProto:
    """The model that a twin describes, in the form that was traced; new weights are in it. Raises Disagreement.

    parts: that alone are asked for, of all nodes; weights of others are left out.
    """
    draft = drafted(twin, shapes_of(twin))
    return draft.parts(parts) if parts else draft.message({})


def alive_weight(twin: Twin, node: int, position: int) -> Array:
    """A weight input, of any shape, as the small model holds it: what is alive of the twin's. Raises Disagreement."""
    whole = Sliced(twin.weight(node, position))
    return sliced_weights(twin, shapes_of(twin), {}).get((node, position), whole).array


def write(twin: Twin, provenance: Mapping[str, Any], expanded: bool = False) -> Written:
    """The model that a twin describes. Raises Disagreement where the small model has no shape.

    Large weights that are new may lie in a temporary file, as those of a large original do.
    """
    shapes = shapes_of(twin, expanded)
    spill = Spill() if holds(twin.trace.facts.model) else None
    message = drafted(twin, shapes, factored=not expanded).message(provenance, spill)
    alive = {name: shapes.kept[name] for name in shapes.smaller}
    model, factored = twin.trace.leave(message, twin.trace.facts.model), frozenset(node for node, _ in twin.factors)
    return Written(model, message, macs_of(twin, shapes), alive, spill, factored)
