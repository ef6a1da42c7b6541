"""`onnx-condense diff`: what differs between two models, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import Diff
from onnx_condense.cli.places import deliver_reports, files_read, model_of, printed, protect, tables
from onnx_condense.report.difference import Difference, NodeOfOne, Shape, difference


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own = arguments.of(Diff)
    places = printed(own.report, own.json)
    protect([*files_read(own.a), *files_read(own.b)], places, own.force)
    found = difference(model_of(own.a), model_of(own.b), (own.a, own.b))
    deliver_reports(own.report, found.to_json())
    if own.json:
        terminal.show_json(found.to_json())
    elif not own.quiet:
        _show(terminal.output(tables(places)), found)
    return 0


def _show(console: Console, found: Difference) -> None:
    """Layers whose weights differ, and nodes of one model only."""
    if found.layers:
        heads = ("layer", "operator", "weights before", "weights after", "parameters")
        table = Table(*heads, title="Layers whose weights differ", title_justify="left")
        for layer in found.layers:
            after = "other numbers" if layer.after == layer.before else _shapes(layer.after)
            change = f"{layer.parameters_before:,} → {layer.parameters_after:,}"
            table.add_row(layer.layer, layer.operator, _shapes(layer.before), after, change)
        console.print(table)
    _only(console, "Removed nodes", found.removed)
    _only(console, "Added nodes", found.added)
    sizes = " → ".join(f"{size:,}" for size in found.parameters)
    same = "" if found.layers or found.removed or found.added else "No layer differs. "
    console.print(f"{same}Parameters: {sizes}; {found.unchanged} nodes are the same.", soft_wrap=True)


def _only(console: Console, title: str, nodes: Sequence[NodeOfOne]) -> None:
    if nodes:
        table = Table("node", "operator", title=title, title_justify="left")
        for node in nodes:
            table.add_row(node.layer, node.operator)
        console.print(table)


def _shapes(shapes: Sequence[Shape]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
