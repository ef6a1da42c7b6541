"""What a run has done so far: as JSON, and in words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnx_condense.auto.folder import RESULT, Folder
from onnx_condense.auto.machine import replay, settings_of
from onnx_condense.auto.state import Event, Point, Round, State
from onnx_condense.documents import head
from onnx_condense.errors import UsageError
from onnx_condense.progress import Step

VERSION = 1

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
    events = events_of(folder)
    return head("auto-status", VERSION) | _status(folder, events, state_of(events))


def events_of(folder: Folder) -> list[dict[str, Any]]:
    """The lines of a run's journal. Raises UsageError where there is no run, InputError for a damaged journal."""
    events = folder.events()
    if not events:
        raise UsageError(f"there is no run in {folder.path}: check --work")
    return events


def state_of(events: list[dict[str, Any]]) -> State:
    """The state that these lines lead to. Raises InputError."""
    return replay(settings_of(events[0]), events)


def _status(folder: Folder, events: list[dict[str, Any]], state: State) -> dict[str, Any]:
    known = state.goals is not None
    return {
        "phase": state.phase,
        "running": folder.busy(),
        "reason": state.reason or None,
        "ended": REASONS.get(state.reason, state.reason) or None,
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
            return f"{REASONS.get(event['reason'], event['reason'])}: the last layer, {short_name(event['layer'])}"
        case "accepted" if event["steps"]:
            head = f"  {short_name(event['layer'])} at {event['threshold']:.4f}: score {event['score']:.4f}"
            return f"{head} after {event['steps']} steps, {share}"
        case "accepted":
            return f"  {short_name(event['layer'])} at {event['threshold']:.4f}: nothing merges"
        case "reverted":
            why = {"limit": "criterion not met", "deviation": "far off", "trainer": "the trainer failed"}
            return f"  {short_name(event['layer'])} at {event['threshold']:.4f}: {why[event['reason']]}, reverted"
        case "gave up":
            return f"the criterion {event['criterion']:.4f} was not met; the best score was {event['score']:.4f}"
        case _:
            return None


def working(state: State) -> Step:
    """What is at work: training steps, of those that may be taken."""
    if state.attempt is not None:
        goal, limit = state.goal()
        what = f"{short_name(state.layer)} at {state.attempt.threshold:.4f}, to a score of {goal:.4f}"
        return Step("train", state.attempt.steps + 1, max(limit, state.attempt.steps + 1), what)
    steps = state.main_steps
    return Step("train the network", steps + 1, max(state.settings.main_step_limit, steps + 1), "to the main criterion")


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


def short_name(layer: Iterable[str]) -> str:
    """The first of its producers, and how many more there are."""
    first, *more = layer
    return f"{first} (+{len(more)})" if more else first
