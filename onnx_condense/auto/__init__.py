"""The paper's automatic condensation reduction: merge, train, test, and go on until little is left."""

from __future__ import annotations

from onnx_condense.auto.loop import run
from onnx_condense.auto.settings import Settings
from onnx_condense.auto.state import State
from onnx_condense.auto.trainer import CommandTrainer, Trainer

__all__ = ["CommandTrainer", "Settings", "State", "Trainer", "run"]
