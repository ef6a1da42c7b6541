"""The trainer of the automatic reduction: some batches a step, scored on the images that validate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from _cifar import Data, accuracy

from onnx_condense.torch import Samples, Strategy, cross_entropy, fit, to_module, written_back


@dataclass
class Loop:
    """See `onnx_condense.finetune.Trainer`.

    steps: that were made in this process.
    """

    data: Data
    batches: int
    batch: int
    steps: int = field(default=0)

    def train(self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int) -> Any:
        """The paper's strategy, from where it stood since the last reduction."""
        module = to_module(model).to(memory_format=torch.channels_last)
        generator, side = np.random.default_rng(done), self.data.images.shape[-1]
        samples = Samples(
            self.data.rows,
            self.data.labels.numpy()[self.data.rows],
            lambda rows, _: self.data.crops(rows.numpy(), generator, side),
        )
        strategy = Strategy(learning_rate=learning_rate, batch=self.batch)
        fit(module, samples, cross_entropy, steps * self.batches, strategy, done * self.batches)
        self.steps += steps
        trained = written_back(module, model)
        return trained, self.evaluate(trained)

    def evaluate(self, model: onnx.ModelProto) -> dict[str, float]:
        """The accuracy on the images that validate."""
        return {"score": accuracy(model, self.data.chosen)}
