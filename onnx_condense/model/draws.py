"""Manners of drawing inputs: what a model is fed where nobody gives data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array


@dataclass(frozen=True)
class Draw:
    """Floats are drawn from low + scale * base; integers below `integers`, where no table says how many it has.

    base: "normal" (standard) or "uniform" (in [0, 1)).
    """

    base: str = "normal"
    scale: float = 1.0
    low: float = 0.0
    integers: int = 2

    @staticmethod
    def between(low: float, high: float) -> Draw:
        """Floats that lie between two numbers."""
        return Draw("uniform", high - low, low)

    def floats(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Numbers of this shape, in float64."""
        base = generator.standard_normal(shape) if self.base == "normal" else generator.random(shape)
        return np.asarray(self.low + self.scale * base)


NORMAL = Draw()

DRAWS = (
    NORMAL,
    Draw("uniform"),
    Draw("uniform", 2.0, -1.0, integers=10),
    Draw("uniform", 9.0, 1.0, integers=100),
    Draw("uniform", 255.0, integers=256),
    Draw("normal", 0.1, integers=1000),
    Draw("normal", 0.01),
    Draw("normal", 10.0, integers=10),
    Draw("normal", 100.0, integers=100),
    Draw("normal", 1000.0, integers=1000),
)
"""The first is what is drawn; the others are tried where the outputs do not follow it: positive for Log and Sqrt, from
-1 to 1 for Asin and Acos, from 1 for Acosh, bytes of images, small and large for what saturates or stays idle."""
