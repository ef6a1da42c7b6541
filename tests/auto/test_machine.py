"""The state machine alone, with made-up outcomes: it ends, it keeps its promises, and the journal is all it needs."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from onnx_condense.auto.machine import Decision, Evaluate, Reduce, Survey, Train, apply, decide, replay
from onnx_condense.finetune import Settings, State

LAYERS = [["a"], ["b", "c"], ["d"]]
BEGIN = {"event": "begin", "model": "m0", "parameters": 10_000}


class World:
    """Made-up outcomes: models are numbered, reductions remove more at lower thresholds, scores are drawn."""

    def __init__(self, seed: int, good: float, failing: float) -> None:
        self.random, self.good, self.failing, self.count = random.Random(seed), good, failing, 0

    def outcome(self, state: State, action: Evaluate | Survey | Reduce | Train) -> dict[str, Any]:
        match action:
            case Evaluate():
                return {"event": "evaluated", "score": 0.9}
            case Survey():
                last = None if action.last_threshold is None else ["z"]
                size = None if last is None or state.settings.until is None else state.now.parameters // 2
                return {"event": "surveyed", "layers": LAYERS, "last": last, "last_parameters": size}
            case Reduce():
                merges = self.random.random() > action.threshold and state.now.parameters > 100
                point = {"model": state.now.model, "parameters": state.now.parameters}
                if merges:
                    share = self.random.choice((0.9999, 0.9, 0.5))
                    point = {"model": self.new(), "parameters": int(share * state.now.parameters)}
                return {"event": "reduced", "layer": list(action.layer), "threshold": action.threshold} | point
            case Train():
                line: dict[str, Any] = {"event": "trained", "steps": action.steps}
                if state.attempt is not None and self.random.random() < self.failing:
                    return line | {"failed": "out of memory"}
                low = 0.0 if self.random.random() < 0.1 else 0.7
                score = self.random.uniform(0.88, 0.95) if self.random.random() < self.good else low
                return line | {"model": self.new(), "score": score}

    def new(self) -> str:
        self.count += 1
        return f"m{self.count}"


@st.composite
def constants(draw: st.DrawFn) -> Settings:
    return Settings(
        step_limit=draw(st.integers(1, 12)),
        last_step_limit=draw(st.integers(1, 15)),
        test_every=draw(st.integers(1, 7)),
        main_test_every=draw(st.integers(1, 7)),
        main_step_limit=draw(st.integers(1, 30)),
        threshold_up=draw(st.sampled_from((0.5, 3.0))),
        rounds=draw(st.none() | st.integers(1, 4)),
        until=draw(st.none() | st.sampled_from((0.9, 0.3, 0.01))),
        last_layer_threshold=draw(st.none() | st.just(0.4)),
        patience=draw(st.integers(1, 4)),
        keep_rounds=draw(st.integers(1, 3)),
    )


@hypothesis_settings(max_examples=100)
@given(constants(), st.integers(0, 10**6), st.sampled_from((0.02, 0.3, 0.9)), st.sampled_from((0.0, 0.2)))
def test_every_run_ends_and_keeps_its_promises(settings: Settings, seed: int, good: float, failing: float) -> None:
    world = World(seed, good, failing)
    events: list[dict[str, Any]] = [BEGIN]
    state = replay(settings, events)
    sizes = {"m0": 10_000}
    while (step := decide(state)) is not None:
        event = dict(step.event) if isinstance(step, Decision) else world.outcome(state, step)
        before, state = state, apply(state, event)
        events.append(event)
        sizes[state.now.model] = state.now.parameters
        assert len(events) < 100_000, "it does not end"
        assert len(state.models()) <= 6 + settings.keep_rounds
        assert {state.now.model, state.start.model} <= state.models() <= sizes.keys()
        assert state.limit >= before.limit
        assert state.completed >= before.completed
        if event["event"] == "reverted":
            assert before.attempt is not None
            assert state.now == before.attempt.save
            assert state.argument(before.layer) == before.argument(before.layer) + settings.threshold_up
        if event["event"] == "trained":
            assert before.attempt is None or before.attempt.steps + event["steps"] <= before.goal()[1]
        if before.result is not None:
            assert state.result is not None
            assert state.result.parameters <= before.result.parameters
    assert state.phase == "done"
    assert state.reason
    assert replay(settings, json.loads(json.dumps(events))) == state
    assert sum(e["steps"] for e in events if e["event"] == "trained") == state.total_steps
    if settings.rounds is not None:
        assert len(state.rows) <= settings.rounds
    assert state.result is not None
    assert state.result.score is not None
    assert state.goals is not None
    assert state.result.score >= min(state.goals.main.end, state.goals.last)
