"""The paper's automatic condensation reduction: merge, train, test, and go on until little is left."""

from onnx_condense.finetune.loop import run
from onnx_condense.finetune.settings import Settings
from onnx_condense.finetune.state import State
from onnx_condense.finetune.trainer import CommandTrainer, Trainer

__all__ = ["CommandTrainer", "Settings", "State", "Trainer", "run"]
