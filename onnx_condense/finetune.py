"""The automatic reduction (auto/), under the name of its public interface."""

from onnx_condense.auto import CommandTrainer, Settings, State, Trainer, run

__all__ = ["CommandTrainer", "Settings", "State", "Trainer", "run"]
