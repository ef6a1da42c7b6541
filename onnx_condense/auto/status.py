"""What a run has done so far: as JSON, as a table, and as the paper's figure 6."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from onnx_condense.auto.folder import RESULT, Folder
from onnx_condense.auto.machine import Event, apply, replay, settings_of
from onnx_condense.auto.state import Point, Round, State
from onnx_condense.errors import UsageError

FORMAT = "onnx-condense-auto-status"
VERSION = 1

REFRESH = 1.0
"""Seconds between two looks at a run that is at work."""

LEGEND_LINE = 0.18
"""Height of a line of the figure's legend, in inches."""

REASONS = {
    "until": "the wanted size is reached",
    "rounds": "all rounds are made",
    "nothing left": "the last rounds removed next to nothing",
    "criterion not met": "the main criterion was not met within --main-step-limit",
    "no layers": "there is no layer to reduce before the last",
}


def status(work: str | Path) -> dict[str, Any]:
    """What a run has done so far, as a JSON object; the run may be at work. Raises UsageError and InputError.

    "rounds" has one object per round, the one at work included: "criterion" and "layer_criterion" before it,
    "parameters" and "score" after it, "steps" of training since the round before (failed attempts count). "reverts" has
    the number of each round's failed attempts.
    """
    folder = Folder(Path(work))
    events = _events(folder)
    return _status(folder, events, _state(events))


def _events(folder: Folder) -> list[dict[str, Any]]:
    events = folder.events()
    if not events:
        raise UsageError(f"there is no run in {folder.path}: check --work")
    return events


def _state(events: list[dict[str, Any]]) -> State:
    return replay(settings_of(events[0]), events)


def _status(folder: Folder, events: list[dict[str, Any]], state: State) -> dict[str, Any]:
    known = state.goals is not None
    return {
        "format": FORMAT,
        "version": VERSION,
        "phase": state.phase,
        "running": folder.busy(),
        "reason": state.reason or None,
        "start": _point(state.start),
        "now": _point(state.now),
        "result": _point(state.result) | {"path": str(folder.path / RESULT)} if state.result else None,
        "criterion": state.criterion if known else None,
        "layer_criterion": state.layer_criterion if known else None,
        "step_limit": state.limit,
        "reductions": state.completed,
        "steps": state.total_steps,
        "layer": list(state.layer) if state.attempt else None,
        "thresholds": [
            {"layer": list(layer), "threshold": state.threshold(layer)}
            for layer in (*state.layers, *([state.last] if state.last else []))
        ],
        "rounds": [_round(row) for row in rows(state)],
        "reverts": [row.reverts for row in rows(state)],
        "updated": events[-1]["at"],
    }


def rows(state: State) -> tuple[Round, ...]:
    """The rounds, the one at work included."""
    return state.rows if state.row is None else (*state.rows, state.row)


def _round(row: Round) -> dict[str, Any]:
    names = ("criterion", "layer_criterion", "parameters", "score", "steps")
    return {name: getattr(row, name) for name in names}


def _point(point: Point) -> dict[str, Any]:
    return {"model": point.model, "parameters": point.parameters, "score": point.score}


# ---------------------------------------------------------------------------------------------------- words


def describe(state: State, event: Event) -> str | None:
    """One line for people on what a step did; None for steps that are not worth one."""
    share = f"{state.now.parameters / state.start.parameters:.1%} of the parameters" if state.start.parameters else ""
    match event["event"]:
        case "evaluated":
            return f"the model scores {event['score']:.4f}; rounds begin at {state.criterion:.4f}"
        case "round":
            return f"round {event['number']}: {len(state.layers)} layers, layer criterion {state.layer_criterion:.4f}"
        case "last layer":
            return f"{REASONS.get(event['reason'], event['reason'])}: the last layer, {_name(event['layer'])}"
        case "accepted" if event["steps"]:
            head = f"  {_name(event['layer'])} at {event['threshold']:.4f}: score {event['score']:.4f}"
            return f"{head} after {event['steps']} steps, {share}"
        case "accepted":
            return f"  {_name(event['layer'])} at {event['threshold']:.4f}: nothing merges"
        case "reverted":
            why = {"limit": "criterion not met", "deviation": "far off", "trainer": "the trainer failed"}
            return f"  {_name(event['layer'])} at {event['threshold']:.4f}: {why[event['reason']]}, reverted"
        case "gave up":
            return f"the criterion {event['criterion']:.4f} was not met; the best score was {event['score']:.4f}"
        case _:
            return None


def closing(state: State) -> str:
    """The last words of a run."""
    head = f"Done: {REASONS.get(state.reason, state.reason)}."
    if state.result is None:
        return f"{head} No model met its criterion."
    before, after = state.start, state.result
    size = f"{after.parameters:,} of {before.parameters:,} parameters ({after.parameters / before.parameters:.1%})"
    return f"{head} {size}, score {after.score:.4f} where it was {before.score:.4f}"


def fell_short(state: State) -> bool:
    """Whether a run ended without what was asked for."""
    settings = state.settings
    if state.result is None:
        return True
    if settings.until is not None:
        return state.result.parameters > settings.until * state.start.parameters
    return settings.rounds is not None and len(state.rows) < settings.rounds and state.reason != "no layers"


def _name(layer: Iterable[str]) -> str:
    first, *more = layer
    return f"{first} (+{len(more)})" if more else first


# ---------------------------------------------------------------------------------------------------- table


def show(console: Console, work: str | Path) -> None:
    """Prints the table; on a terminal it follows a run until that ends, or until Ctrl-C."""
    folder = Folder(Path(work))
    if not (console.is_terminal and folder.busy()):
        console.print(_table(folder, _events(folder)))
        return
    with Live(_table(folder, _events(folder)), console=console) as live:
        while folder.busy():
            time.sleep(REFRESH)
            live.update(_table(folder, _events(folder)))


def _table(folder: Folder, events: list[dict[str, Any]]) -> Group:
    state = _state(events)
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
    return Group(table, Text(_present(state, events[-1])))


def _sizes(state: State, point: Point) -> tuple[str, str, str]:
    share = point.parameters / max(1, state.start.parameters)
    return f"{point.parameters:,}", f"{share:.1%}", "" if point.score is None else f"{point.score:.4f}"


def _present(state: State, last: Mapping[str, Any]) -> str:
    ago = f"last step {max(0.0, time.time() - last['at']):.0f} s ago"
    if state.phase == "done":
        return closing(state)
    if state.attempt is not None:
        goal, limit = state.goal()
        where = f"{_name(state.layer)} at threshold {state.attempt.threshold:.4f}"
        return f"{where}: {state.attempt.steps} of {limit} steps, criterion {goal:.4f}; {ago}"
    if state.goals is not None:
        return f"training to the criterion {state.criterion:.4f}: {state.main_steps} steps; {ago}"
    return f"scoring the model; {ago}"


# ---------------------------------------------------------------------------------------------------- figure


@dataclass
class _Curves:
    """What the figure shows, over training steps."""

    scores: list[tuple[int, float]] = field(default_factory=list)
    sizes: list[tuple[int, float]] = field(default_factory=list)
    criteria: list[tuple[int, float, float]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    thresholds: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def _curves(events: list[dict[str, Any]]) -> _Curves:
    curves = _Curves()
    state = replay(settings_of(events[0]), [])
    for event in events:
        state = apply(state, event)
        step = state.total_steps
        curves.sizes.append((step, state.now.parameters))
        if event["event"] in ("evaluated", "trained", "reverted") and state.now.score is not None:
            curves.scores.append((step, state.now.score))
        if event["event"] == "round":
            curves.rounds.append(step)
        if event["event"] == "reduced":
            curves.thresholds.setdefault(_name(event["layer"]), []).append((step, event["threshold"]))
        if state.goals is not None:
            curves.criteria.append((step, state.criterion, state.layer_criterion))
    return curves


def plot(work: str | Path, target: Path) -> None:
    """Draws score, parameters and thresholds over training steps, as the paper's figure 6. Raises UsageError."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install 'onnx-condense[plot]'") from error
    curves = _curves(_events(Folder(Path(work))))
    names = list(curves.thresholds)
    figure = Figure(figsize=(9, 9 + LEGEND_LINE * len(names) / 2), layout="constrained")
    score, size, threshold = figure.subplots(3, 1, sharex=True)
    score.plot(*_columns(curves.scores), linewidth=1, label="score")
    steps = [c[0] for c in curves.criteria]
    for column, name in ((1, "main criterion"), (2, "layer criterion")):
        score.step(steps, [c[column] for c in curves.criteria], where="post", linewidth=1, linestyle="--", label=name)
    size.step(*_columns(curves.sizes), where="post")
    for number, name in enumerate(names, 1):
        color = colormaps["turbo"](number / (len(names) + 1))
        threshold.plot(*_columns(curves.thresholds[name]), "o-", markersize=3, linewidth=1, label=name, color=color)
    for axis, name in ((score, "score"), (size, "parameters"), (threshold, "threshold")):
        axis.set_ylabel(name)
        for step in curves.rounds:
            axis.axvline(step, color="0.85", linewidth=0.8, zorder=0)
    size.set_ylim(bottom=0)
    score.legend(fontsize="small")
    if names:
        figure.legend(*threshold.get_legend_handles_labels(), loc="outside lower left", fontsize="x-small", ncols=2)
    threshold.set_xlabel("training steps (vertical lines: rounds begin)")
    try:
        figure.savefig(target)
    except (OSError, ValueError) as error:
        raise UsageError(f"--plot {target} cannot be written ({error}): name an .svg, .png or .pdf") from error


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]
