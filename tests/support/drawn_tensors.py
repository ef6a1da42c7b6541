"""Tensors of random graphs, and the functions that are drawn for them."""

from __future__ import annotations

from dataclasses import dataclass

SINCE = {"Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20}
SMOOTH = (
    "Identity", "Dropout", "Neg", "Relu", "LeakyRelu", "Abs", "Tanh", "Erf", "Softsign", "Atan", "Sin", "Cos",
    "Sinh", "Asinh", "Elu", "Celu", "Selu", "Gelu", "HardSwish", "Mish", "Softplus", "Sigmoid", "HardSigmoid",
)  # fmt: skip
"""Functions of anything; Sign, ThresholdedRelu and casts to integers jump: rounding of their input is not theirs."""

POSITIVE = ("Exp", "Log", "Sqrt", "Reciprocal")
"""Functions that need numbers around one: behind Sigmoid(x) + 0.5."""

RATIOS = (1.0, 1.0, 2.5, 0.4, -1.0, -1.5, 0.0)


@dataclass(frozen=True)
class Tensor:
    """A tensor [batch, channels] or [batch, channels, side, side]."""

    name: str
    channels: int
    side: int = 0

    @property
    def places(self) -> int:
        return self.side**2
