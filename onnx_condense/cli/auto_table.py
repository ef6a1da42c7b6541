"""The rounds of an automatic reduction as a table, which follows a run that is at work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from onnx_condense.auto.folder import Folder
from onnx_condense.auto.state import Point, State
from onnx_condense.auto.status import closing, events_of, rows, short_name, state_of

REFRESH = 1.0
"""Seconds between two looks at a run that is at work."""


def show(console: Console, folder: Folder, refresh: float = REFRESH) -> None:
    """Prints the table; on a terminal it follows a run until that ends, or until Ctrl-C."""
    if not (console.is_terminal and folder.busy()):
        console.print(_table(folder, events_of(folder)))
        return
    with Live(_table(folder, events_of(folder)), console=console) as live:
        while folder.busy():
            time.sleep(refresh)
            live.update(_table(folder, events_of(folder)))


def _table(folder: Folder, events: list[dict[str, Any]]) -> Group:
    state = state_of(events)
    table = Table(title=f"{folder.path}: {state.phase}{', at work' if folder.busy() else ''}")
    for name in ("round", "criterion", "layer criterion", "parameters", "kept", "score", "steps", "reverts"):
        table.add_column(name, justify="right")
    table.add_row("start", "", "", *_sizes(state, state.start), "", "")
    for number, row in enumerate(rows(state), 1):
        criteria = (f"{row.criterion:.5f}", f"{row.layer_criterion:.5f}")
        point = Point("", row.parameters, row.score)
        table.add_row(str(number), *criteria, *_sizes(state, point), str(row.steps), str(row.reverts))
    if state.result is not None:
        table.add_row("result", "", "", *_sizes(state, state.result), str(state.total_steps), "", style="bold")
    return Group(table, _present(state, events[-1]))


def _sizes(state: State, point: Point) -> tuple[str, str, str]:
    share = point.parameters / max(1, state.start.parameters)
    return f"{point.parameters:,}", f"{share:.1%}", "" if point.score is None else f"{point.score:.4f}"


def _present(state: State, last: Mapping[str, Any]) -> str:
    ago = f"last step {max(0.0, time.time() - last['at']):.0f} s ago"
    if state.phase == "done":
        return closing(state)
    if state.attempt is not None:
        goal, limit = state.goal()
        where = f"{short_name(state.layer)} at threshold {state.attempt.threshold:.4f}"
        return f"{where}: {state.attempt.steps} of {limit} steps, criterion {goal:.4f}; {ago}"
    if state.goals is not None:
        return f"training to the criterion {state.criterion:.4f}: {state.main_steps} steps; {ago}"
    return f"scoring the model; {ago}"
