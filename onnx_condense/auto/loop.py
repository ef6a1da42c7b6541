"""The automatic reduction at work: does what the machine decides, and writes down what came of it."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_condense.auto.folder import Folder
from onnx_condense.auto.identity import check_inputs, check_same, first_line, taken
from onnx_condense.auto.machine import Action, Decision, Evaluate, Event, Reduce, Survey, Train, apply, decide, replay
from onnx_condense.auto.settings import Settings
from onnx_condense.auto.state import Layer, State
from onnx_condense.auto.trainer import Checked, Trainer
from onnx_condense.errors import TrainerError, VerificationError
from onnx_condense.model import files
from onnx_condense.operators.actions import Role
from onnx_condense.operators.queries import count_parameters
from onnx_condense.options import Options
from onnx_condense.pipeline import condense
from onnx_condense.planning.alignment import width_multiple
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.prepare import open_model
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Trace

FAILURES = 3
"""Failed trainer calls in a row (retries not counted) that stop a run."""

Watch = Callable[[State, Event], None]
"""Called after every step with the state that it led to and its journal line."""

_log = logging.getLogger(__name__)


def run(
    model: str | os.PathLike[str] | onnx.ModelProto,
    trainer: Trainer,
    work: str | os.PathLike[str],
    settings: Settings | None = None,
    options: Options | None = None,
    *,
    retries: int = 1,
    watch: Watch | None = None,
) -> State:
    """Reduces a model automatically, or goes on where an interrupted run in the same folder ended.

    Args:
        model: the trained model; it is never changed.
        trainer: see Trainer.
        work: the run's folder; result.onnx in it is the smallest model so far that met its criterion.
        settings: the constants of the paper's method.
        options: how layers are condensed (merge, calibration, depthwise, align, include, exclude, data, input_shape,
            seed); no merge means DEFAULT_MERGE, or "calibrated" with calibration inputs.
        retries: how often a failed trainer call is repeated.
        watch: called after every step.

    Returns:
        The last state; its `result` names the smallest model that met its criterion.

    Raises:
        UsageError: the folder belongs to a run with other settings or inputs, or is in use; options do not fit the
            model.
        InputError: the model or the inputs cannot be used, the disk is full, or the folder is damaged.
        TrainerError: the trainer failed where nothing can be reverted, or again and again. The same call resumes.
    """
    settings, options = settings or Settings(), taken(options or Options())
    folder = Folder(Path(work))
    source = files.load(model)
    with folder.opened():
        events = folder.events()
        if not events:
            survey(source.proto, options, False)  # inputs and globs that do not fit are said before hours pass
            stored, size = folder.put(source.proto), count_parameters(source.proto.graph)[0]
            align = width_multiple(options)[0]
            events = [folder.append(first_line(stored, size, source.sha256, settings, options, align))]
        first = events[0]
        check_same(folder.path, first, source.sha256, settings, options)
        options = replace(options, align=first["options"]["align"], align_for=None)
        loop = _Loop(folder, Checked(trainer, retries), options, first, replay(settings, events), watch)
        return loop.run()


@dataclass
class _Loop:
    """The effects of a run, one step after the other."""

    folder: Folder
    trainer: Checked
    options: Options
    first: Event
    state: State
    watch: Watch | None
    published: str = ""

    def run(self) -> State:
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

    def _outcome(self, action: Action) -> Event:
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
        """`reduce_layer`; above the surgery limit the layer stays as it is, and the line says so."""
        try:
            return reduce_layer(model, layer, threshold, self.options), {}
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


# ---------------------------------------------------------------------------------------------------- layers


def survey(model: onnx.ModelProto, options: Options, apart: bool) -> tuple[list[Layer], Layer | None]:
    """The layers of a model in topological order, and the group that the classifier reads.

    A layer is a dependency group, known by its producers' names; groups whose producers have the same names are one.
    `apart`: the classifier's group is not among the layers, whatever `include` says.
    Raises UsageError for a glob that matches nothing.
    """
    opened = open_model(model, options)
    chosen = list(dict.fromkeys(g.layers for g in chosen_groups(opened.trace, options)))
    if not apart:
        return chosen, None
    allowed = {g.layers for g in chosen_groups(opened.trace, replace(options, include=()))}
    read = _read_last(opened.trace)
    last = read.layers if read is not None and read.layers in allowed else None
    return [layer for layer in chosen if layer != last], last


def _read_last(trace: Trace) -> Group | None:
    """The group that the last layer reads: of the last weight that contracts any group, the last such group."""
    for slot in sorted((s for s in trace.slots if s.role is Role.CONTRACTED), key=lambda s: -s.node):
        units = set(trace.unit_of[atoms_of(slot.labels[slot.labels >= 0])].tolist())
        read = [g for g in trace.groups if units.intersection(g.units.tolist())]
        if read:
            return read[-1]
    return None


def reduce_layer(model: onnx.ModelProto, layer: Layer, threshold: float, options: Options) -> onnx.ModelProto:
    """The model with one layer condensed and the result proven; the model itself where nothing merges.

    A layer that is no longer there (it shrank to one channel) stays as it is, and so does any at threshold 1. Raises
    VerificationError when the surgery limit is not met.
    """
    if threshold >= 1:
        return model
    chosen = replace(options, include=tuple(glob.escape(name) for name in layer), exclude=(), threshold=threshold)
    result = condense(model, chosen)
    groups = tuple(g for g in result.plan.groups if g.layers == layer)
    if not groups:
        return model
    if len(groups) < len(result.plan.groups):  # another group has a producer of the same name
        result = condense(model, replay=replace(result.plan, groups=groups))
    return result.model
