"""How the paper trains (section 3.2.2): stochastic gradient descent with cosine annealing, then Adam."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from onnx_condense.pytorch.need import torch


@dataclass(frozen=True)
class Strategy:
    """The paper's schedule.

    Attributes:
        learning_rate: of the descent at the start of a period.
        descent: steps of stochastic gradient descent.
        period: steps of one cosine.
        adam: learning rates of Adam, taken in turn.
        alternation: steps that each of them lasts.
        momentum: of the descent.
        weight_decay: of both.
        batch: samples of one step, over all processes.
    """

    learning_rate: float = 0.01
    descent: int = 400
    period: int = 200
    adam: tuple[float, float] = (1e-3, 1e-4)
    alternation: int = 1000
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 128

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.descent:
            return self.learning_rate / 2 * (1 + cos(pi * (step % self.period) / self.period))
        return self.adam[(step - self.descent) // self.alternation % 2]

    def optimizer(self, module: torch.nn.Module, step: int) -> torch.optim.Optimizer:
        """The optimizer of the phase that a step lies in."""
        parameters, decay = module.parameters(), self.weight_decay
        if step < self.descent:
            return torch.optim.SGD(parameters, lr=self.rate(step), momentum=self.momentum, weight_decay=decay)
        return torch.optim.AdamW(parameters, lr=self.rate(step), weight_decay=decay)

    def has_phase_from(self, step: int) -> bool:
        """Whether a new optimizer starts at a step."""
        return step in (0, self.descent)
