"""The rows of LSTM, GRU and RNN, and of what stands around them."""

from __future__ import annotations

from onnx_condense.operators.actions import Reader, Recurrent, Refused, Window
from onnx_condense.operators.answers import Action, Kind
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import NodeView

CANDIDATES = {"LSTM": 3, "GRU": 2, "RNN": 0}
"""Among the gates of the weights (iofc, zrh, i): the one that the others scale."""

DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
"""Functions of one direction (ONNX operators LSTM-14, GRU-14, RNN-14)."""

RESETS = {"GRU": 1}
"""The gate that scales the state which the candidate reads, where there is one."""

BACKWARD = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each direction begins at the last step."""

TERMS = ((0, "sbi"), (1, "dgi")), ((0, "sb_"), (2, "dgh"))
"""W of every step's data, and R of every step's state."""

KINDS = {
    "tanh": Kind.ODD,
    "scaledtanh": Kind.ODD,
    "softsign": Kind.ODD,
    "relu": Kind.HOMOGENEOUS,
    "leakyrelu": Kind.HOMOGENEOUS,
}


def recurrent(view: NodeView) -> Action:
    if view.attribute("layout", 0):
        return Refused(Reason.BATCH_FIRST, TERMS)
    if not view.is_weight(1):
        return Refused(Reason.WEIGHTS_FROM_DATA, TERMS)
    if not all(view.is_weight(i) for i in (2, 3, 7) if view.has(i)):
        held = (2,) if view.is_weight(2) else ()
        return Reader(0, 1, 2, 2, Reason.RECURRENT_FROM_DATA, held)
    zeros, states, given = _initial(view)
    outside = any(view.is_given(i) for i in given)
    return Recurrent(
        gates=view.shape(2)[1] // view.shape(2)[2],
        candidate=CANDIDATES[view.node.op],
        kind=_kind(view),
        bias=view.optional(3),
        apart=bool(view.attribute("linear_before_reset", 0)),
        peepholes=view.optional(7),
        states=states,
        zeros=zeros,
        given=given,
        reason=Reason.STATE_FROM_INPUT if outside else Reason.STATE_FROM_DATA,
        backward=BACKWARD[view.attribute("direction", "forward")],
        reset=RESETS.get(view.node.op),
        sigmoid=_sigmoid(view),
    )


def _initial(view: NodeView) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The inputs that state what a layer begins with: those that are zero, the other weights, and the rest."""
    initial = [i for i in (5, 6) if view.has(i)]
    zeros = tuple(i for i in initial if view.is_zero(i))
    weights = tuple(i for i in initial if i not in zeros and view.is_weight(i))
    return zeros, weights, tuple(i for i in initial if i not in zeros + weights)


def reverse_sequence(view: NodeView) -> Action:
    """Steps change places, channels do not."""
    return Window((view.attribute("batch_axis", 1), view.attribute("time_axis", 0)), linear=True)


def _sigmoid(view: NodeView) -> bool:
    """Whether the gates, in every direction, are what they are by default."""
    defaults = DEFAULTS[view.node.op]
    names = view.attribute("activations", defaults)
    return "clip" not in view.node.attrs and {name.lower() for name in names[:: len(defaults)]} == {"sigmoid"}


def _kind(view: NodeView) -> Kind:
    """What passes from the candidate to the unit, where all functions on the way agree."""
    defaults = DEFAULTS[view.node.op]
    names = view.attribute("activations", defaults)
    gate = len(defaults) > 1
    functions = [name for i, name in enumerate(names) if i % len(defaults) or not gate]
    kinds = {KINDS.get(name.lower(), Kind.BOUNDED) for name in functions}
    if kinds == {Kind.HOMOGENEOUS} and ("clip" in view.node.attrs or view.has(7)):
        return Kind.BOUNDED
    return kinds.pop() if len(kinds) == 1 else Kind.BOUNDED
