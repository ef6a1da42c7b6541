"""A run: begins one in an empty folder, or goes on with the one that is there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from onnx_condense.auto.folder import Folder
from onnx_condense.auto.identity import begin_line, check_same, taken
from onnx_condense.auto.loop import Loop, Watch
from onnx_condense.auto.machine import replay
from onnx_condense.auto.settings import Settings
from onnx_condense.auto.state import State
from onnx_condense.auto.steps import survey
from onnx_condense.auto.trainer import Checked, Trainer
from onnx_condense.model import files
from onnx_condense.model.files import Model
from onnx_condense.operators.queries import count_parameters
from onnx_condense.options import Options
from onnx_condense.planning.alignment import width_multiple


def run(
    model: Model,
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
    source = files.load(model, hold=False)
    with folder.opened():
        events = folder.events()
        if not events:
            survey(source.proto, options, False)  # inputs and globs that do not fit are said before hours pass
            stored, size = folder.put(source.proto), count_parameters(source.proto.graph)[0]
            align = width_multiple(options)[0]
            events = [folder.append(begin_line(stored, size, source.sha256, settings, options, align))]
        first = events[0]
        check_same(folder.path, first, source.sha256, settings, options)
        options = replace(options, align=first["options"]["align"], align_for=None)
        return Loop(folder, Checked(trainer, retries), options, first, replay(settings, events), watch).run()
