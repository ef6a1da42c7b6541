"""The rows of operators that hold whole heads of attention: of onnxruntime, and of operator set 23."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_condense.arrays import Shape
from onnx_condense.operators.actions import Reader, Refused
from onnx_condense.operators.answers import Action
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import NodeView


@dataclass(frozen=True)
class Attending(Action):
    """softmax(scale · q kᵀ) v by heads: inputs 0, 1 and 2 are queries, keys and values.

    heads: how many there are of queries, and of keys and values, each of which serves as many of the queries' in turn.
    apart: whether they lie on an axis of their own, [batch, heads, places, width]; else [batch, places, heads · width].
    scale: of the sums of products. bias: input of [queries, keys, values] that is added to all of them.
    bent: whether something else than a scale stands between those sums and the softmax over the keys.
    stated: the attributes that say how many heads there are, of queries first.
    """

    heads: tuple[int, int]
    apart: bool
    scale: float
    bias: int | None = None
    bent: bool = False
    stated: tuple[str, ...] = ()

    @property
    def shifts(self) -> bool:
        return self.bias is not None

    @property
    def unmoved(self) -> int | None:
        return None if self.bent else 1

    def widths(self, inputs: Sequence[Shape]) -> tuple[int, int, int]:
        """Channels of a head of queries, keys and values, from their shapes."""
        parts = 1 if self.apart else self.heads[0], 1 if self.apart else self.heads[1]
        return inputs[0][-1] // parts[0], inputs[1][-1] // parts[1], inputs[2][-1] // parts[1]

    def heads_of(self, inputs: Sequence[Shape], before: Sequence[Shape]) -> dict[str, int]:
        """The attributes that say how many heads there are, of inputs that lost whole ones, given their shapes."""
        return {name: self.heads[part] * inputs[part][2] // before[part][2] for part, name in enumerate(self.stated)}

    def products(self, inputs: Sequence[Shape], output: Shape) -> int:
        places = -2 if self.apart else 1
        _, width, made = self.widths(inputs)
        return inputs[0][0] * self.heads[0] * inputs[0][places] * inputs[1][places] * (width + made)


@dataclass(frozen=True)
class Rotating(Action):
    """Pairs of channels of each head of input 0 turned by angles of positions, the same in all heads.

    heads, apart: as of `Attending`. tables: inputs of cosines and sines [positions, pairs].
    interleaved: whether the two of a pair lie side by side; else in the two halves of a head.
    counted: the attribute that states how wide a head is, if one does. stated: the one that states how many there are.
    """

    heads: int
    apart: bool
    tables: tuple[int, int]
    interleaved: bool
    counted: str = ""
    stated: tuple[str, ...] = ()

    def counts(self, inputs: Sequence[Shape], output: Shape) -> Mapping[str, int]:
        return {self.counted: inputs[0][-1] // (1 if self.apart else self.heads)} if self.counted else {}

    def heads_of(self, inputs: Sequence[Shape], before: Sequence[Shape]) -> dict[str, int]:
        """As of `Attending`."""
        return {name: self.heads * inputs[0][2] // before[0][2] for name in self.stated}


def attention(view: NodeView) -> Action:
    """The Attention of onnxruntime: projects its input [batch, places, i] with [i, q + k + v].

    What else it may be is taken apart (forms/attention.py).
    """
    if not view.is_weight(1):
        return Refused(Reason.WEIGHTS_FROM_DATA)
    return Reader(0, 1, 2, 0, Reason.HEADS)


def multi_head(view: NodeView) -> Action:
    """MultiHeadAttention of onnxruntime."""
    heads = view.attribute("num_heads", 0)
    if any(view.has(i) for i in range(6, len(view.node.inputs))) or view.is_used(1) or view.is_used(2):
        return Refused(Reason.CACHES)
    if not (view.has(1) and view.has(2)) or any(len(view.shape(i)) != 3 for i in range(3)):
        return Refused(Reason.HEADS)
    if view.has(3) and not view.is_weight(3):
        return Refused(Reason.BIAS_FROM_DATA)
    width = view.shape(0)[2] // heads
    scale = view.attribute("scale", 0.0) or width**-0.5
    return Attending((heads, heads), False, scale, view.optional(3), stated=("num_heads",))


def standard(view: NodeView) -> Action:
    """Attention of operator set 23."""
    if view.has(4) or view.has(5) or view.is_used(1) or view.is_used(2):
        return Refused(Reason.CACHES)
    ranks = {len(view.shape(i)) for i in range(3)}
    if len(ranks) > 1:
        return Refused(Reason.HEADS)
    apart = ranks == {4}
    heads = (
        (view.shape(0)[1], view.shape(1)[1])
        if apart
        else (view.attribute("q_num_heads", 0), view.attribute("kv_num_heads", 0))
    )
    width = view.shape(0)[-1] // (1 if apart else heads[0])
    bent = bool(view.attribute("softcap", 0.0))
    stated = () if apart else ("q_num_heads", "kv_num_heads")
    return Attending(heads, apart, view.attribute("scale") or width**-0.5, bent=bent, stated=stated)


def rotary(view: NodeView) -> Action:
    """RotaryEmbedding of onnxruntime and of operator set 23: whole heads, by rows of constant tables."""
    ours = view.node.domain == "com.microsoft"
    cosines, positions = (2, 1) if ours else (1, 3)
    tables, shape = (cosines, cosines + 1), view.shape()
    apart = len(shape) == 4
    if not view.has(positions) or not all(view.is_weight(i) and len(view.shape(i)) == 2 for i in tables):
        return Refused(Reason.ROTATES)
    width, part = 2 * view.shape(cosines)[1], "rotary_embedding_dim"
    if view.attribute(part, 0) not in (0, width) or view.attribute("scale", 1.0) != 1.0 or len(shape) not in (3, 4):
        return Refused(Reason.ROTATES)
    stated = view.attribute("num_heads", 0)
    heads = shape[1] if apart else (stated or shape[2] // width)
    if view.attribute("is_packed_batching", 0) or shape[-1] != width * (1 if apart else heads):
        return Refused(Reason.ROTATES)
    named = ("num_heads",) if stated and not apart else ()
    interleaved = bool(view.attribute("interleaved", 0))
    return Rotating(heads, apart, tables, interleaved, part if view.attribute(part, 0) else "", named)


def grouped(view: NodeView) -> Action:
    """GroupQueryAttention of onnxruntime: one width for all, a multiple of 8, and one table of rotations."""
    caches = view.has(3) or view.has(4) or view.is_used(1) or view.is_used(2)
    return Refused(Reason.CACHES if caches else Reason.ONE_WIDTH)
