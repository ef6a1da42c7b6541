"""The automatic reduction (auto/), under the name of its public interface."""

from onnx_condense.auto.run import run
from onnx_condense.auto.settings import Settings
from onnx_condense.auto.state import State
from onnx_condense.auto.trainer import CommandTrainer, Trainer

__all__ = ["CommandTrainer", "Settings", "State", "Trainer", "run"]
