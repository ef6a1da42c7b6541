"""The automatic reduction as a pure function of its journal: what happened so far decides what happens next.

`replay` folds the journal's lines into a State; `decide` says the next step. A step is an action, whose outcome the
loop records, or a decision, which is recorded as it is. So an interrupted run goes on where its journal ends.

The paper (sections 2.3.2 and 3.2.2): train until the main criterion is met; then reduce every layer in order, each
from a save point, training after each until the layer's criterion is met or the step limit is reached, in which case
the save point comes back with a higher threshold and a longer limit. Repeat; at the end reduce the group that the
classifier reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from onnx_condense.auto.settings import Settings
from onnx_condense.auto.state import Attempt, Event, Layer, Point, Round, State
from onnx_condense.errors import InputError, UsageError

# ---------------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True)
class Evaluate:
    """Score the current model. Outcome: `evaluated` {score}."""

    outcome = "evaluated"


@dataclass(frozen=True)
class Survey:
    """Find the layers of the current model. Outcome: `surveyed` {layers, last, last_parameters}."""

    last_threshold: float | None
    outcome = "surveyed"


@dataclass(frozen=True)
class Reduce:
    """Condense one layer of the current model. Outcome: `reduced` {layer, threshold, model, parameters}."""

    layer: Layer
    threshold: float
    outcome = "reduced"


@dataclass(frozen=True)
class Train:
    """Train the current model and score it. Outcome: `trained` {steps, model, score} or {steps, failed}.

    done: steps since the last reduction.
    """

    steps: int
    learning_rate: float
    done: int
    outcome = "trained"


Task = Evaluate | Survey | Reduce | Train


@dataclass(frozen=True)
class Decision:
    """A turn that follows from the journal alone; `event` is its line."""

    event: Event


# ---------------------------------------------------------------------------------------------------- what is next


def decide(state: State) -> Task | Decision | None:
    """The next step; None when the run is done."""
    match state.phase:
        case "evaluate":
            return Evaluate()
        case "main":
            return _main(state)
        case "round" | "last":
            return _attempt(state)
        case _:
            return None


def _main(state: State) -> Task | Decision:
    settings, met = state.settings, _met(state)
    if not met and not state.exhausted:
        left = settings.main_step_limit - state.main_steps
        if left > 0:
            return _train(state, min(settings.main_test_every, left))
        best = state.main_best or state.now
        return Decision({"event": "gave up", "criterion": state.criterion, "model": best.model, "score": best.score})
    if not state.surveyed:
        threshold = None if settings.last_layer_threshold is None else _last_threshold(state)
        return Survey(threshold)
    reason = _ending(state)
    if reason is None:
        number = len(state.rows) + 1
        goals = {"criterion": state.criterion, "layer_criterion": state.layer_criterion}
        return Decision({"event": "round", "number": number} | goals)
    assert state.goals is not None and state.now.score is not None
    if state.last is not None and (met or (state.rows and state.now.score >= state.goals.last)):
        return Decision({"event": "last layer", "layer": list(state.last), "reason": reason})
    return Decision({"event": "done", "reason": reason})


def _last_threshold(state: State) -> float:
    """The threshold that the classifier's group would be reduced at now."""
    if state.last is not None:
        return state.threshold(state.last)
    assert state.settings.last_layer_threshold is not None
    return state.settings.last_layer_threshold


def _ending(state: State) -> str | None:
    """Why no further round begins; None where one does."""
    settings = state.settings
    if settings.until is not None:
        reached = state.now.parameters if state.last_parameters is None else state.last_parameters
        if reached <= settings.until * state.start.parameters:
            return "until"
    if state.exhausted:
        return "criterion not met"
    if settings.rounds is not None and len(state.rows) >= settings.rounds:
        return "rounds"
    if state.idle >= settings.patience:
        return "nothing left"
    return None if state.layers else "no layers"


def _attempt(state: State) -> Task | Decision:
    attempt, settings = state.attempt, state.settings
    if attempt is None:
        return Reduce(state.layer, state.threshold(state.layer))
    reached = _reached(state, attempt)
    if reached is not None:
        return _accept(state, reached)
    reason = _lost(state, attempt)
    if reason is not None:
        return _revert(state, reason)
    _, limit = state.goal()
    steps = min(settings.test_every, limit - attempt.steps)
    if attempt.steps < settings.deviation_steps:
        steps = min(steps, settings.deviation_steps - attempt.steps)
    return _train(state, steps)


def _reached(state: State, attempt: Attempt) -> Point | None:
    """What an attempt ends with where it succeeded; the classifier's group trains to its limit before."""
    if attempt.unchanged:
        return state.now
    goal, limit = state.goal()
    best = attempt.best
    if best is None or best.score is None or best.score < goal:
        return None
    return best if state.phase == "round" or attempt.failed or attempt.steps >= limit else None


def _lost(state: State, attempt: Attempt) -> str | None:
    """Why an attempt is given up; None where it goes on."""
    _, limit = state.goal()
    if attempt.failed is not None:
        return "trainer"
    if attempt.steps >= limit:
        return "limit"
    assert state.goals is not None
    score = state.now.score
    far = attempt.steps == state.settings.deviation_steps and score is not None and score < state.goals.deviation
    return "deviation" if far else None


def _train(state: State, steps: int) -> Train:
    return Train(steps, state.settings.rate(state.completed), state.now.since)


def _accept(state: State, point: Point) -> Decision:
    attempt = state.attempt
    assert attempt is not None
    argument = state.argument(state.layer)
    small = point.parameters > (1 - state.settings.least_removed) * attempt.save.parameters
    if small:
        argument -= state.settings.threshold_down
    return Decision(_turn("accepted", state, argument) | {"model": point.model, "small": small, "score": point.score})


def _revert(state: State, reason: str) -> Decision:
    argument = state.argument(state.layer) + state.settings.threshold_up
    return Decision(_turn("reverted", state, argument) | {"reason": reason})


def _turn(name: str, state: State, argument: float) -> dict[str, Any]:
    assert state.attempt is not None
    goal, limit = state.goal()
    numbers = {"threshold": state.attempt.threshold, "criterion": goal, "limit": limit, "steps": state.attempt.steps}
    return {"event": name, "layer": list(state.layer)} | numbers | {"argument": argument}


def _met(state: State) -> bool:
    return state.now.score is not None and state.now.score >= state.criterion


# ---------------------------------------------------------------------------------------------------- what happened


FORMAT = "onnx-condense-auto"
VERSION = 1


def settings_of(first: Event) -> Settings:
    """The settings in a journal's first line. Raises InputError where another version wrote it."""
    try:
        if (first["format"], first["version"]) == (FORMAT, VERSION):
            return Settings.from_json(first["settings"])
    except (KeyError, TypeError, UsageError):
        pass
    writer = first.get("tool", "")
    raise InputError(f"the journal is in the form of another version (begun by {writer}): use that, or a new --work")


def replay(settings: Settings, events: Iterable[Event]) -> State:
    """The state that a journal leaves. Raises InputError for a line that does not follow from those before it."""
    state = State(settings, limit=settings.step_limit)
    for number, event in enumerate(events, 1):
        expected = decide(state)
        if isinstance(expected, Decision):
            wanted = expected.event["event"]
        else:
            wanted = "begin" if expected is None and number == 1 else getattr(expected, "outcome", None)
        if event["event"] != wanted:
            raise InputError(
                f"line {number} of the journal ({event['event']}) does not follow from the lines before it: it was "
                "written by another version, or changed; start a new --work"
            )
        state = apply(state, event)
    return state


def apply(state: State, event: Event) -> State:
    """The state after one more line. Raises InputError for an event that this version does not know."""
    match event["event"]:
        case "begin":
            first = Point(event["model"], event["parameters"])
            return replace(state, phase="evaluate", now=first, start=first)
        case "evaluated":
            now = replace(state.now, score=event["score"])
            goals = state.settings.criteria(event["score"])
            return _tested(replace(state, phase="main", now=now, start=now, goals=goals))
        case "surveyed":
            layers = tuple(tuple(layer) for layer in event["layers"])
            last = None if event["last"] is None else tuple(event["last"])
            size = event["last_parameters"]
            return replace(state, surveyed=True, layers=layers, last=last, last_parameters=size)
        case "round":
            row = Round(
                state.criterion, state.layer_criterion, state.now.parameters, state.now.score, state.round_steps
            )
            return replace(state, phase="round", position=0, row=row)
        case "last layer":
            return replace(state, phase="last", reason=event["reason"])
        case "gave up":
            return replace(state, now=state.main_best or state.now, exhausted=True, surveyed=False)
        case "reduced":
            return _reduced(state, event)
        case "trained":
            return _trained(state, event)
        case "accepted":
            return _accepted(state, event)
        case "reverted":
            return _reverted(state, event)
        case "done":
            return replace(state, phase="done", reason=event["reason"], now=state.now)
        case unknown:
            raise InputError(f"the journal knows an event {unknown} that this version does not: start a new --work")


def _tested(state: State) -> State:
    """After a test in the main phase: the best model, and the result where the criterion is met."""
    best = _better(state.main_best, state.now)
    return replace(state, main_best=best, result=_smaller(state.result, state.now) if _met(state) else state.result)


def _better(old: Point | None, new: Point) -> Point:
    if old is None or old.score is None or (new.score is not None and new.score > old.score):
        return new
    return old


def _smaller(old: Point | None, new: Point) -> Point:
    if old is None or new.parameters < old.parameters:
        return new
    return _better(old, new) if new.parameters == old.parameters else old


def _reduced(state: State, event: Event) -> State:
    unchanged = event["model"] == state.now.model
    attempt = Attempt(state.now, event["threshold"], unchanged)
    now = state.now if unchanged else Point(event["model"], event["parameters"])
    return replace(state, attempt=attempt, now=now)


def _trained(state: State, event: Event) -> State:
    steps, attempt = event["steps"], state.attempt
    state = replace(state, round_steps=state.round_steps + steps, total_steps=state.total_steps + steps)
    if "failed" in event:
        assert attempt is not None
        return replace(state, attempt=replace(attempt, failed=event["failed"]), failures=state.failures + 1)
    now = Point(event["model"], state.now.parameters, event["score"], state.now.since + steps)
    state = replace(state, now=now, failures=0)
    if attempt is None:
        return _tested(replace(state, main_steps=state.main_steps + steps))
    best = _better(attempt.best, now)
    return _with_row(replace(state, attempt=replace(attempt, steps=attempt.steps + steps, best=best)))


def _with_row(state: State, reverts: int = 0) -> State:
    """The row of the round at work, brought up to date."""
    if state.row is None:
        return state
    row = replace(state.row, parameters=state.now.parameters, score=state.now.score, steps=state.round_steps)
    return replace(state, row=replace(row, reverts=row.reverts + reverts))


def _accepted(state: State, event: Event) -> State:
    attempt = state.attempt
    assert attempt is not None
    arguments = {**state.arguments, state.layer: event["argument"]}
    best = attempt.best
    now = best if best is not None and best.model == event["model"] else state.now
    state = replace(state, now=now, arguments=arguments, attempt=None)
    if state.phase == "last":
        return replace(state, phase="done", result=now if not attempt.unchanged else state.result)
    state = _with_row(replace(state, completed=state.completed + 1, position=state.position + 1))
    return _end_of_round(state) if state.position == len(state.layers) else state


def _end_of_round(state: State) -> State:
    row, settings = state.row, state.settings
    assert row is not None
    before = state.rows[-1].parameters if state.rows else state.start.parameters
    small = row.parameters > (1 - settings.least_removed) * before
    state = replace(
        state,
        phase="main",
        surveyed=False,
        rows=(*state.rows, row),
        row=None,
        round_models=(*state.round_models, state.now.model)[-settings.keep_rounds :],
        round_steps=0,
        main_steps=0,
        main_best=None,
        idle=state.idle + 1 if small else 0,
    )
    return _tested(state)


def _reverted(state: State, event: Event) -> State:
    attempt = state.attempt
    assert attempt is not None
    arguments = {**state.arguments, state.layer: event["argument"]}
    limit = state.limit if state.is_last else state.limit + state.settings.step_limit_growth
    state = replace(state, now=attempt.save, attempt=None, arguments=arguments, limit=limit)
    if state.phase == "last":
        return replace(state, phase="main", surveyed=False)
    return _with_row(state, reverts=1)
