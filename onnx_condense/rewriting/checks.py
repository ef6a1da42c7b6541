"""Whether a twin can be written: where not, which channels must stay."""

from __future__ import annotations

import numpy as np

from onnx_condense.arrays import Array
from onnx_condense.merging.twin import Twin
from onnx_condense.model.storage import Quantized
from onnx_condense.model.wire import size
from onnx_condense.operators.answers import Role
from onnx_condense.rewriting.drafting import drafted, is_uniform
from onnx_condense.rewriting.kept import Disagreement, Enlarged
from onnx_condense.rewriting.rules import edits_of
from onnx_condense.rewriting.shapes import Shapes, name_of, shapes_of


def check_shapes(twin: Twin) -> None:
    """Raises Disagreement where `write` would."""
    check_tied(twin)
    shapes = shapes_of(twin)
    check_scales(shapes)
    edits_of(shapes)


def check_tied(twin: Twin) -> None:
    """Raises Disagreement where the uses of one weight want different columns after merging."""
    trace, first = twin.trace, dict[str, Array]()
    changed = (trace.facts.nodes[node].inputs[position].name for node, position in twin.changed_places)
    for slot in trace.slots_named(changed):
        if slot.role is not Role.CONTRACTED:
            continue
        name = name_of(trace, slot)
        value = twin.weight(slot.node, slot.input)
        if not np.array_equal(first.setdefault(name, value), value):
            raise Disagreement(trace.units_in(slot.labels), name)


def check_scales(shapes: Shapes) -> None:
    """Raises Disagreement where integers of one scale would lose different channels."""
    for slot in shapes.trace.slots_with(np.flatnonzero(~shapes.alive)):
        name = name_of(shapes.trace, slot)
        stored = shapes.facts.stored(name)
        if not isinstance(stored, Quantized) or stored.axis is None:
            continue
        kept = shapes.of_slot(slot)
        grouped = slot.groups > 1 and slot.axes == (1,) and stored.axis == 1
        if kept is not None and (kept.line is None or grouped):
            raise Disagreement(shapes.trace.units_in(slot.labels), name)


def check_size(twin: Twin) -> None:
    """Raises Enlarged where weights that the file only describes (ConstantOfShape) would make it larger."""
    facts = twin.trace.facts
    described = twin.trace.generated
    if not described:
        return
    draft = drafted(twin, shapes_of(twin))
    excess = size(draft.message({})) - size(facts.model)
    if excess <= 0:
        return
    places = {(s.node, s.input): s for s in described}
    written = {place: v.array.nbytes for place, v in draft.values.items() if place in places and not is_uniform(v)}
    largest = sorted(written, key=lambda place: (-written[place], place))
    ends = np.cumsum([written[place] for place in largest])
    chosen = set(largest[: int(np.searchsorted(ends, excess)) + 1])
    slots = [s for s in described if (s.node, s.input) in chosen]
    if slots:
        units = np.unique(np.concatenate([twin.trace.units_in(s.labels) for s in slots]))
        others = f" and {len(chosen) - 1} others" if len(chosen) > 1 else ""
        raise Enlarged(units, name_of(twin.trace, slots[0]) + others)
