"""Planted cases of recurrent units: copies in the rows of every gate, in biases, peepholes and initial states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import onnx

from support.planted.cases import (
    ALWAYS,
    COPIES,
    FULL,
    HOMOGENEOUS,
    LINEAR,
    ODD,
    case,
    copies,
    planted_columns,
    planted_rows,
)
from support.planted.net import Array, Net

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CANDIDATE = {"LSTM": 3, "GRU": 2, "RNN": 0}
SIZE, STEPS, BATCH = 6, 5, 8


@dataclass(frozen=True)
class Form:
    """What a recurrent node has, and which of its outputs is read: 0 for Y, 1 for Y_h, 2 for Y_c.

    initial: empty, "constant", "zero" or "derived" (zeros whose shape follows from the data's).
    """

    op: str
    directions: int = 1
    reverse: bool = False
    bias: bool = True
    peepholes: bool = False
    initial: str = ""
    lengths: bool = False
    read: int = 0
    before_reset: bool = False
    activations: Sequence[str] = ()
    clip: float = 0.0
    forget: bool = False
    size: int = SIZE

    @property
    def label(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)[1:] if getattr(self, f.name) != f.default}
        return ", ".join(k if v is True else f"{k} {v}" for k, v in given.items())


def _rows(net: Net, relation: str, form: Form, *tail: int) -> Array:
    """[directions, gates, 8, ...]: the relation is the candidate's, the other gates of a copy are equal."""
    result = net.normal(form.directions, GATES[form.op], FULL, *tail) * np.float32(0.4)
    for direction in result:
        for gate, rows in enumerate(direction):
            same = relation in ("near", "unread") or gate == CANDIDATE[form.op]
            rows[...] = copies(relation if same else "equal", rows, net.normal(*rows.shape))
    return result


def _units(net: Net, relation: str, *shape: int) -> Array:
    """[..., 8] weights with planted units on the last axis."""
    values = np.moveaxis(net.normal(*shape, FULL) * np.float32(0.4), -1, 0)
    return np.moveaxis(copies(relation, values), 0, -1)


def _apart(values: Array, *axes: int) -> Array:
    """Other units are copies in the second direction than in the first."""
    return np.concatenate([values[:1], np.roll(values[1:], 3 * np.ones(len(axes), int), axes)])


def _recurrent_rows(net: Net, relation: str, form: Form) -> Array:
    """[directions, gates · 8, 8]; unread units read nobody but themselves."""
    rows = _rows(net, relation, form, FULL)
    if relation == "unread":
        for copy in COPIES:
            rows[:, :, [u for u in range(FULL) if u != copy], copy] = 0
    return _apart(rows, 2, 3).reshape(form.directions, -1, FULL)


def _initial(net: Net, relation: str, form: Form, data: str) -> str:
    if not form.initial:
        return ""
    if form.initial == "derived":
        batch = net.node("Slice", net.node("Shape", data), net.ints(1), net.ints(2))
        return net.node("ConstantOfShape", net.node("Concat", net.ints(form.directions), batch, net.ints(FULL), axis=0))
    values = _apart(_units(net, relation, form.directions, BATCH), 2)
    return net.constant(values * 0 if form.initial == "zero" else values)


def planted_node(net: Net, relation: str, form: Form, data: str, name: str = "producer") -> list[str]:
    """A recurrent node with 8 units, of which 3 are copies, in every direction; its outputs."""
    d = form.directions
    inputs = [data, net.constant(_apart(_rows(net, relation, form, form.size), 2).reshape(d, -1, form.size))]
    inputs.append(net.constant(_recurrent_rows(net, relation, form)))
    bias = np.stack([_rows(net, relation, form), _rows(net, relation, form)], 1)
    if relation == "shifted":
        bias[:, 1, CANDIDATE[form.op], list(COPIES)] += np.float32(0.7)
    inputs.append(net.constant(_apart(bias, 3).reshape(d, -1)) if form.bias else "")
    inputs.append(net.constant(np.array([5, 3, 4, 5, 1, 2, 5, 4], dtype=np.int32)) if form.lengths else "")
    states = [_initial(net, relation, form, data) for _ in range(2 if form.op == "LSTM" else 1)]
    inputs += states
    if form.peepholes:
        inputs.append(net.constant(_apart(_units(net, relation, d, 3), 2).reshape(d, -1)))
    while not inputs[-1]:
        inputs.pop()
    attributes: dict[str, Any] = {"hidden_size": FULL}
    if d == 2 or form.reverse:
        attributes["direction"] = "bidirectional" if d == 2 else "reverse"
    if form.before_reset:
        attributes["linear_before_reset"] = 1
    if form.forget:
        attributes["input_forget"] = 1
    if form.activations:
        attributes["activations"] = list(form.activations) * d
    if form.clip:
        attributes["clip"] = form.clip
    return net.multiple(form.op, *inputs, outputs=3 if form.op == "LSTM" else 2, name=name, **attributes)


def build(relation: str, form: Form) -> onnx.ModelProto:
    """The node and a MatMul that reads one of its outputs."""
    net = Net()
    data = net.input(STEPS, BATCH if form.initial == "constant" or form.lengths else "batch", SIZE)
    hidden = planted_node(net, relation, form, data)[form.read]
    if form.read == 0:
        hidden = net.node("Transpose", hidden, perm=[0, 2, 1, 3])
        hidden = net.node("Reshape", hidden, net.ints(0, 0, form.directions * FULL))
    else:
        hidden = net.node("Transpose", hidden, perm=[1, 0, 2])
        hidden = net.node("Reshape", hidden, net.ints(-1, form.directions * FULL))
    columns = _apart(np.stack([planted_columns(net, relation, 4) for _ in range(form.directions)]), 2)
    return net.build(net.matmul("consumer", hidden, columns.swapaxes(0, 1).reshape(4, -1), net.normal(4)))


@case("ReverseSequence", LINEAR)
def _reversed(relation: str) -> onnx.ModelProto:
    """Between two layers, over steps that differ in number."""
    net = Net()
    hidden = net.matmul("producer", net.input(STEPS, BATCH, SIZE), *planted_rows(net, relation, SIZE))
    hidden = net.node("ReverseSequence", hidden, net.ints(5, 3, 4, 5, 1, 2, 5, 4))
    return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


FORMS = [
    *(Form(op, directions=d) for op in GATES for d in (1, 2)),
    *(Form(op, reverse=True, bias=False) for op in GATES),
    *(Form(op, initial=initial) for op in GATES for initial in ("constant", "zero", "derived")),
    *(Form(op, directions=2, initial="constant", lengths=True) for op in GATES),
    *(Form(op, directions=d, read=1, initial="derived") for op in GATES for d in (1, 2)),
    *(Form("LSTM", directions=d, read=2, peepholes=True, initial="constant") for d in (1, 2)),
    *(Form("LSTM", read=read, peepholes=True) for read in (0, 1)),
    *(Form("GRU", directions=d, before_reset=True) for d in (1, 2)),
    Form("GRU", before_reset=True, initial="constant", read=1),
    Form("LSTM", forget=True),
    Form("GRU", clip=0.5),
    Form("LSTM", activations=("HardSigmoid", "Softsign", "Tanh")),
]

HOMOGENEOUS_FORMS = [
    Form("RNN", activations=("Relu",), directions=2),
    Form("RNN", activations=("LeakyRelu",), initial="constant"),
    Form("GRU", activations=("Sigmoid", "Relu")),
    Form("LSTM", activations=("Sigmoid", "Relu", "Relu"), initial="constant"),
]

EQUAL_FORMS = [
    Form("RNN", activations=("Sigmoid",)),
    Form("RNN", activations=("Relu",), clip=0.5),
    Form("GRU", activations=("Tanh", "Sigmoid")),
    Form("LSTM", activations=("Sigmoid", "Tanh", "Relu")),
    Form("LSTM", activations=("Sigmoid", "Relu", "Relu"), peepholes=True),
]


def _register(forms: Sequence[Form], passes: frozenset[str], silent: str = "") -> None:
    for form in forms:
        unseen = silent if form.bias else f"{silent} shifted"  # without a bias nothing is shifted
        case(form.op, passes, f"units {form.label}", unseen)(lambda relation, form=form: build(relation, form))


_register(FORMS, ODD)
_register(HOMOGENEOUS_FORMS, HOMOGENEOUS)
_register(EQUAL_FORMS, ALWAYS - {"dead"}, "dead")  # dead units equal each other where there is one gate
