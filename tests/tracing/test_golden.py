"""Golden traces: models as ONNX text in golden/*.txt, and below each what the tracer says of it.

Line 1 holds flags: `--opset N` (17), `--domain NAME` for operators of another domain. What `<...>` declares and no
node makes is a weight; without numbers of its own it gets random ones. After a wanted change write them again, and
read the difference:

    python -m pytest -k golden --regenerate-golden && git diff tests
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.builders import build, random
from support.planted.net import traced

from onnx_condense.arrays import Ints
from onnx_condense.operators.answers import Action
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Slot, Trace

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.txt"))
MARK = "# output\n"

FLAGS = argparse.ArgumentParser()
FLAGS.add_argument("--opset", type=int, default=17)
FLAGS.add_argument("--domain", action="append", default=[])


def parsed(text: str) -> onnx.ModelProto:
    """The model that a file's text describes."""
    first, _, graph = text.partition("\n")
    flags = FLAGS.parse_args(first.removeprefix("#").split())
    model = build(graph, opset=flags.opset, domains=dict.fromkeys(flags.domain, 1), check=False)
    made = {name for node in model.graph.node for name in node.output}
    for value in [value for value in model.graph.value_info if value.name not in made]:
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        weight = random(*shape, seed=len(model.graph.initializer))
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, value.name))
        model.graph.value_info.remove(value)
    onnx.checker.check_model(model, full_check=True)
    return model


def runs(numbers: Ints) -> str:
    """0, 1, 2, 5, 5, -1 as "0-2 5*2 .": ascending numbers as a range, repeated ones counted, none as a point."""
    words, rest = [], numbers.tolist()
    while rest:
        first = rest[0]
        step = int(first >= 0 and rest[1:2] == [first + 1])
        count = next((n for n, number in enumerate(rest) if number != first + n * step), len(rest))
        words.append(f"{first}-{rest[count - 1]}" if step else _repeated(first, count))
        rest = rest[count:]
    return " ".join(words)


def _repeated(number: int, count: int) -> str:
    word = "." if number < 0 else str(number)
    return word if count == 1 else f"{word}*{count}"


def positions(trace: Trace, group: Group, slot: Slot) -> Ints:
    """[...] along the labelled axes of a slot: which of the group's channels lies there, -1 where none does."""
    atoms = atoms_of(slot.labels)
    units = np.where(atoms >= 0, trace.unit_of[atoms], -1)
    known = {unit: position for position, unit in enumerate(group.units.tolist())}
    return np.array([known.get(unit, -1) for unit in units.reshape(-1).tolist()])


def described(trace: Trace, group: Group) -> Iterator[str]:
    """A group: its producers, what its channels merge within, lines that lose equally many, and where they lie."""
    yield f"group of {', '.join(group.layers)}: {len(group.units)} channels"
    yield "  merge within " + " | ".join(runs(cell) for cell in group.cells)
    for part in group.partitions:
        lines = (runs(part.units[part.lines == line]) for line in np.unique(part.lines))
        yield "  lose equally many of " + " | ".join(lines)
    for slot in trace.slots_of(group):
        node = trace.facts.nodes[slot.node]
        axes = ", ".join(map(str, slot.axes))
        place = f"{node.name or node.op} {node.inputs[slot.input].name}[{axes}]"
        yield f"  {slot.role.value} {place}: {runs(positions(trace, group, slot))}"


def rendered(trace: Trace) -> str:
    lines = [line for group in trace.groups for line in described(trace, group)]
    lines += [f"{r.layer} stays ({r.parameters} parameters): {r.reason}" for r in trace.refusals]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, regenerate: bool) -> None:
    path = GOLDEN / f"{name}.txt"
    given, _, expected = path.read_text().partition(MARK)
    found = rendered(traced(parsed(given)))
    if regenerate:
        path.write_text(given + MARK + found)
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([0, 1, 2, 5, 5, -1], "0-2 5*2 ."), ([3], "3"), ([-1, -1, 0, 0, 1, 1], ".*2 0*2 1*2"), ([2, 1, 0], "2 1 0")],
)
def test_runs(numbers: list[int], text: str) -> None:
    assert runs(np.array(numbers)) == text


def kinds(action: type[Action]) -> set[type[Action]]:
    """Those below it that have none below them."""
    below = action.__subclasses__()
    return set().union(*map(kinds, below)) if below else {action}


def test_every_kind_of_action_has_a_golden_trace() -> None:
    texts = ((GOLDEN / f"{name}.txt").read_text().partition(MARK)[0] for name in CASES)
    seen = {type(action) for text in texts for action in traced(parsed(text)).actions.values()}
    assert kinds(Action) <= seen
