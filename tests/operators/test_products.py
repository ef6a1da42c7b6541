"""Multiply-accumulates against hand counts, of whatever multiplies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.planted.net import Net

import onnx_condense as oc
from onnx_condense.operators.products import equation, matrices


def attention(net: Net) -> str:
    """5 tokens of 8 channels, 2 heads of 4: three projections, queries times keys, shares times values."""
    x = net.input(1, 5, 8)
    heads = []
    for name in "qkv":
        made = net.node("Reshape", net.matmul(name, x, net.normal(8, 8)), net.ints(1, 5, 2, 4))
        heads.append(net.node("Transpose", made, perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]))
    shares = net.node("Softmax", net.node("MatMul", heads[0], heads[1]))
    return net.node("MatMul", shares, heads[2])


def experts(net: Net) -> str:
    """3 members on 4 rows, 6 to 7."""
    return net.node("MatMul", net.input(3, 4, 6), net.constant(net.normal(3, 6, 7)))


def einsum(text: str, *shapes: tuple[int, ...]) -> Callable[[Net], str]:
    def build(net: Net) -> str:
        data, *weights = shapes
        return net.node("Einsum", net.input(*data), *(net.constant(net.normal(*s)) for s in weights), equation=text)

    return build


def lstm(layout: int, directions: int = 1, op: str = "LSTM", gates: int = 4) -> Callable[[Net], str]:
    def build(net: Net) -> str:
        weights = (net.constant(net.normal(directions, gates * 7, n)) for n in (6, 7))
        way = "bidirectional" if directions == 2 else "forward"
        steps = net.input(*((1, 5) if layout else (5, 1)), 6)
        (made,) = net.multiple(op, steps, *weights, hidden_size=7, direction=way, **({"layout": 1} if layout else {}))
        return made

    return build


def kernels_from_data(net: Net) -> str:
    kernels = net.node("Reshape", net.input(72, name="k"), net.ints(4, 2, 3, 3))
    return net.node("Conv", net.input(1, 2, 8, 8), kernels)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (attention, 3 * 5 * 8 * 8 + 2 * (2 * 5 * 5 * 4)),
        (experts, 3 * 4 * 6 * 7),
        (einsum("bi,io->bo", (1, 6), (6, 7)), 6 * 7),
        (einsum("bsi,ihd->bshd", (1, 5, 6), (6, 2, 3)), 5 * 6 * 2 * 3),
        (einsum("gbi,gio->gbo", (3, 4, 6), (3, 6, 7)), 3 * 4 * 6 * 7),
        (einsum("...i,io->...o", (1, 5, 6), (6, 7)), 5 * 6 * 7),
        (lstm(0), 5 * 4 * 7 * (6 + 7)),
        (lstm(0, 2), 2 * 5 * 4 * 7 * (6 + 7)),
        (lstm(0, op="GRU", gates=3), 5 * 3 * 7 * (6 + 7)),
        (lstm(0, op="RNN", gates=1), 5 * 7 * (6 + 7)),
        (kernels_from_data, 4 * 6 * 6 * 2 * 3 * 3),
    ],
)
def test_hand_counts(build: Callable[[Net], str], expected: int) -> None:
    net = Net()
    assert oc.analyze(net.build(build(net))).model.macs == expected


def test_letters() -> None:
    assert equation("b...i, io", (4, 2)) == ((0, "bβαi"), (1, "io"))
    assert equation("ii", (2,)) is None
    assert equation("bi,io->bo", (1, 2)) is None
    assert matrices((3, 1), (False, False)) == ((0, "αnk"), (1, "k"))
