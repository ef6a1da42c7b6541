"""What may be asked of an action: the answers of one that has nothing to do with the question, and their words.

Other floors ask an action and never look at which operator it is. Two of them have a rule per class of action, in a
table: the tracer (tracing/tracer.py) and the rewriter (rewriting/rules.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

import numpy as np

from onnx_condense.arrays import Shape

if TYPE_CHECKING:
    from onnx_condense.operators.actions import Contraction, Normalization, Reader, Recurrent
    from onnx_condense.operators.moves import Move
    from onnx_condense.operators.view import NodeView

Interval = tuple[float, float]
"""Bounds of every element of a tensor."""

ANYTHING: Interval = (-np.inf, np.inf)


class Role(StrEnum):
    """What an input of a node is to channels."""

    PRODUCED = "produced"
    """Its rows make them."""
    CARRIED = "carried"
    """It holds one parameter for each of them."""
    CONTRACTED = "contracted"
    """It reads them."""
    PAIRED = "paired"
    """It makes, or is added to, channels that a product of data multiplies them with."""


class Kind(Enum):
    """What an elementwise function lets pass exactly (design, section 2; f is applied per element)."""

    LINEAR = "linear"
    """f(x) = x: any relation between two channels passes."""
    HOMOGENEOUS = "homogeneous"
    """f(s x) = s f(x) for s > 0: Relu, LeakyRelu, PRelu."""
    ABSOLUTE = "absolute"
    """f(s x) = |s| f(x): Abs."""
    ODD = "odd"
    """f(-x) = -f(x): Tanh, Erf, Softsign, Clip(-a, a). Beyond exactness rows must be nearly equal or opposite."""
    UNBOUNDED = "unbounded"
    """Nearly homogeneous far from zero: ReLU6, Gelu, Silu, Elu. Beyond exactness it takes the paper's ratio."""
    BOUNDED = "bounded"
    """Everything else, Sigmoid first: beyond exactness rows must be nearly equal."""


class Action:
    """What may be asked of every action. The answers here are those of an action that has nothing to do with it."""

    @property
    def weights(self) -> tuple[int, ...]:
        """The inputs that it multiplies data with."""
        return ()

    @property
    def linear_map(self) -> Contraction | None:
        """Itself where it is a linear map that makes channels."""
        return None

    @property
    def recurrent(self) -> Recurrent | None:
        """Itself where it has units that follow from themselves."""
        return None

    @property
    def reader(self) -> Reader | None:
        """Itself where it reads channels, and its own stay."""
        return None

    @property
    def move(self) -> Move | None:
        """Itself where it moves data."""
        return None

    @property
    def refused(self) -> bool:
        """Whether it is not understood."""
        return False

    @property
    def lookup(self) -> bool:
        """Whether its data are row numbers of its weight: Gather from a table."""
        return False

    @property
    def pointwise(self) -> bool:
        """Whether every element of its output follows from the elements at the same place of its inputs."""
        return False

    @property
    def statistics(self) -> tuple[int, ...]:
        """The inputs that state the mean and the variance of what it reads: those of BatchNormalization."""
        return ()

    @property
    def normalization(self) -> Normalization | None:
        """Itself where it normalizes by statistics that it states."""
        return None

    @property
    def affine(self) -> tuple[int, int, int | None] | None:
        """The axis of its channels, and the inputs that it multiplies each with, and adds to it, last of all."""
        return None

    @property
    def of_channels(self) -> tuple[int, ...]:
        """The inputs that hold numbers of each channel alone, which may be any."""
        return (
            () if self.affine is None else tuple(i for i in (*self.affine[1:], *self.statistics[:1]) if i is not None)
        )

    @property
    def is_filter(self) -> bool:
        """Whether each of its channels has kernels of its own: depthwise Conv."""
        return self.convolves and bool(self.of_channels)

    @property
    def states_statistics(self) -> bool:
        """Whether it states the mean and the variance of what it reads."""
        return bool(self.statistics)

    @property
    def adds(self) -> bool:
        """Whether it adds up its inputs."""
        return False

    @property
    def shifts(self) -> bool:
        """Whether a constant among its inputs is added to the others, or taken from them, or they from it."""
        return False

    @property
    def unmoved(self) -> int | None:
        """The input whose channels may be shifted, the same at all places, without a change of the output."""
        return None

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution of images."""
        return False

    @property
    def made_axis(self) -> int | None:
        """The axis of its output along which a linear map has its channels."""
        return None

    @property
    def bounded(self) -> bool:
        """Whether its output lies between two numbers, whatever it reads."""
        return False

    @property
    def keeps_bounds(self) -> bool:
        """Whether its output lies between the bounds of its first input, zero included."""
        return False

    def image(self, ends: Sequence[Interval]) -> Interval:
        """Bounds of its outputs, from those of its inputs."""
        return ANYTHING

    def multiplications(self, position: int, inputs: Sequence[Shape], output: Shape) -> int:
        """How often each element of the weight at an input is multiplied.

        Args:
            position: of the weight among the inputs.
            inputs: shapes of the inputs; () for what is left out.
            output: shape of the first output.
        """
        return 0

    def products(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Multiply-accumulates beside those of its `weights`: of data with data, or with weights that stay.

        Args:
            inputs: shapes of the inputs; () for what is left out.
            output: shape of the first output.
        """
        return 0

    def counts(self, inputs: Sequence[Shape], output: Shape) -> Mapping[str, int]:
        """What its attributes that count channels say, by their names.

        Args:
            inputs: shapes of the inputs; () for what is left out.
            output: shape of the first output.
        """
        return {}


def with_zero(ends: Interval) -> Interval:
    """Bounds of what is either between these bounds or zero."""
    return min(ends[0], 0.0), max(ends[1], 0.0)


Row = Callable[["NodeView"], Action]
"""Makes an action of a node."""


def fixed(action: Action) -> Row:
    """The same action for every node."""
    return lambda view: action
