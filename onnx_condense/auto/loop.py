"""The automatic reduction at work: does what the machine decides, and writes down what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from onnx_condense.auto.folder import Folder
from onnx_condense.auto.identity import check_inputs
from onnx_condense.auto.machine import Decision, Evaluate, Reduce, Survey, Task, Train, apply, decide
from onnx_condense.auto.state import Event, Layer, State
from onnx_condense.auto.steps import reduce_layer, survey
from onnx_condense.auto.trainer import Checked
from onnx_condense.errors import TrainerError, VerificationError
from onnx_condense.operators.queries import count_parameters
from onnx_condense.options import Options

FAILURES = 3
"""Failed trainer calls in a row (retries not counted) that stop a run."""

Watch = Callable[[State, Event], None]
"""Called after every step with the state that it led to and its journal line."""

Reducer = Callable[[onnx.ModelProto, Layer, float, Options], onnx.ModelProto]
"""Condenses one layer of a model at a threshold."""

_log = logging.getLogger(__name__)


@dataclass
class Loop:
    """The effects of a run, one step after the other; `first` is the journal's first line."""

    folder: Folder
    trainer: Checked
    options: Options
    first: Event
    state: State
    watch: Watch | None = None
    reduce: Reducer = reduce_layer
    published: str = ""

    def run(self) -> State:
        """Takes steps until there are none left; what each one did is in the journal before the next."""
        self._tidy()
        while (step := decide(self.state)) is not None:
            event = step.event if isinstance(step, Decision) else self._outcome(step)
            line = self.folder.append(event)
            self.state = apply(self.state, line)
            self._tidy()
            if self.watch is not None:
                self.watch(self.state, line)
        return self.state

    def _tidy(self) -> None:
        """What follows from the journal and is not in it: the published result, the models that may go."""
        result = self.state.result
        if result is not None and result.model != self.published:
            self.folder.publish(result.model)
            self.published = result.model
        self.folder.prune(self.state.models())

    def _outcome(self, action: Task) -> Event:
        match action:
            case Evaluate():
                score, metrics = self.trainer.evaluate(self._model())
                self.state.settings.criteria(score)  # raises before a line says so
                return {"event": "evaluated", "score": score, "metrics": metrics}
            case Survey():
                check_inputs(self.first, self.options)
                return self._surveyed(action)
            case Reduce():
                check_inputs(self.first, self.options)
                return self._reduced(action)
            case Train():
                return self._trained(action)

    def _model(self) -> onnx.ModelProto:
        return self.folder.get(self.state.now.model)

    def _trained(self, action: Train) -> Event:
        numbers = {"event": "trained", "steps": action.steps, "learning_rate": action.learning_rate}
        try:
            model, score, metrics = self.trainer.train(self._model(), action.steps, action.learning_rate, action.done)
        except TrainerError as error:
            attempt = self.state.attempt
            if attempt is None or self.state.failures + 1 >= FAILURES:
                raise
            self.trainer.evaluate(self.folder.get(attempt.save.model))  # raises where any call fails: then it is broken
            _log.warning("%s; the attempt is reverted", error)
            return numbers | {"failed": str(error)}
        return numbers | {"model": self.folder.put(model), "score": score, "metrics": metrics}

    def _reduced(self, action: Reduce) -> Event:
        before = self._model()
        after, refused = self._reduce(before, action.layer, action.threshold)
        digest = self.state.now.model if after is before else self.folder.put(after)
        line = {"event": "reduced", "layer": list(action.layer), "threshold": action.threshold}
        return line | {"model": digest, "parameters": count_parameters(after.graph)[0]} | refused

    def _reduce(self, model: onnx.ModelProto, layer: Layer, threshold: float) -> tuple[onnx.ModelProto, dict[str, str]]:
        """`reduce`; above the surgery limit the layer stays as it is, and the line says so."""
        try:
            return self.reduce(model, layer, threshold, self.options), {}
        except VerificationError as error:
            _log.warning("%s stays as it is: %s", layer[0], error)
            return model, {"refused": str(error)}

    def _surveyed(self, action: Survey) -> Event:
        model = self._model()
        layers, last = survey(model, self.options, action.last_threshold is not None)
        size = None
        if last is not None and action.last_threshold is not None and self.state.settings.until is not None:
            size = count_parameters(self._reduce(model, last, action.last_threshold)[0].graph)[0]
        return {"event": "surveyed", "layers": [list(x) for x in layers], "last": last, "last_parameters": size}
