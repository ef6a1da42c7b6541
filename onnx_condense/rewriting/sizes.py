"""Parameters and multiply-accumulates of the model that a twin describes, without writing it."""

from __future__ import annotations

from math import prod

from onnx_condense.arrays import Shape
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.queries import count_parameters, parameters_in
from onnx_condense.rewriting.drafting import drafted
from onnx_condense.rewriting.shapes import Shapes, shapes_of
from onnx_condense.rewriting.values import sliced_weights


def count_macs(twin: Twin) -> int:
    """Multiply-accumulates, as in `Written.macs`. Raises Disagreement where the small model has no shape."""
    return macs_of(twin, shapes_of(twin))


def macs_of(twin: Twin, shapes: Shapes) -> int:
    """As `count_macs`, of the model with these shapes: output elements times what each is a sum of."""
    total, small = 0, sliced_weights(twin, shapes, twin.folded)
    for index, action in twin.trace.actions.items():
        if not shapes.known(index):
            continue
        inputs, output = shapes.at(index)
        total += action.products(inputs, output)
        for position in action.weights:
            place = index, position
            size = small[place].size if place in small else twin.weight(*place).size
            times, factor = action.multiplications(position, inputs, output), twin.factors.get(place)
            total += times * size if factor is None else _of_pair(twin, factor, times * size, output)
    return total


def _of_pair(twin: Twin, factor: Factor, whole: int, output: Shape) -> int:
    """Multiply-accumulates of a pair of factors, from those of its product and the shape of what it makes."""
    action = twin.trace.linear_map(factor.node)
    assert action is not None
    return factor.rank * (whole // max(1, output[action.output_axis]) + prod(output))


def parameters_of(twin: Twin) -> int:
    """Parameters of the written model, running statistics aside. Raises Disagreement as `count_macs` does.

    Where a form that was traced is left again (bodies, operators on integers), it is written down to be counted.
    """
    traced, draft = twin.trace.facts.model, drafted(twin, shapes_of(twin))
    if not twin.trace.plain:
        return count_parameters(twin.trace.leave(draft.message({}), traced).graph)[0]
    return parameters_in(draft.rebuilt.nodes, draft.rebuilt.sizes())[0]
