"""One operator on [batch, heads, width] at a time: right whatever it does to lines that lose different channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.planted.net import Net, assert_close

from onnx_condense import Options, condense

Operator = Callable[[Net, str], str]


def sliced(net: Net, data: str, start: int, end: int, axis: int) -> str:
    return net.node("Slice", data, net.ints(start), net.ints(end), net.ints(axis))


def per_head(net: Net, *shape: int) -> str:
    """One number per head, repeated over whatever else the shape has."""
    value = np.empty(shape)
    value[...] = abs(net.normal(2)).reshape([2 if n == 2 else 1 for n in shape])
    return net.constant(value)


def summed_twice(net: Net, data: str) -> str:
    constant = per_head(net, 2, 4)
    return net.node("Sum", data, constant, constant)


def attention(net: Net, data: str) -> str:
    scores = net.node("MatMul", data, net.node("Transpose", data, perm=[0, 2, 1]))
    return net.node("MatMul", net.node("Softmax", scores), data)


def gru(net: Net, data: str) -> str:
    weights = (net.constant(net.normal(1, 12, 4)) for _ in range(2))
    return net.node("Reshape", net.node("GRU", data, *weights, hidden_size=4), net.ints(3, 2, 4))


def each(op: str, parts: Callable[[Net, str], list[str]], axis: int) -> Operator:
    return lambda net, data: net.node(op, *parts(net, data), axis=axis)


OPERATORS: dict[str, Operator] = {
    "function": lambda n, x: n.node("Clip", x, n.constant(0.0), n.constant(6.0)),
    "one number per head and channel": lambda n, x: n.node("Mul", x, per_head(n, 2, 4)),
    "one number per head": lambda n, x: n.node("Add", x, per_head(n, 2, 1)),
    "one number per channel": lambda n, x: n.node("Mul", x, n.constant(np.full(4, 2.0))),
    "slopes": lambda n, x: n.node("PRelu", x, per_head(n, 2, 1)),
    "the same constant twice": summed_twice,
    "square": lambda n, x: n.node("Mul", x, x),
    "where": lambda n, x: n.node("Where", n.node("Greater", x, n.constant(0.0)), x, n.constant(0.0)),
    "mean over the batch": lambda n, x: n.node("Add", x, n.node("ReduceMean", x, axes=[0])),
    "heads apart": each("Concat", lambda n, x: [sliced(n, x, 0, 1, 1), sliced(n, x, 1, 2, 1)], 1),
    "channels apart": each("Concat", lambda n, x: n.multiple("Split", x, n.ints(1, 3), outputs=2, axis=2), 2),
    "heads turned": lambda n, x: n.node("Gather", x, n.ints(1, 0), axis=1),
    "channels turned": lambda n, x: n.node("Gather", x, n.ints(3, 2, 1, 0), axis=2),
    "turned and back": lambda n, x: n.node("Transpose", n.node("Transpose", x, perm=[0, 2, 1]), perm=[0, 2, 1]),
    "a constant behind": lambda n, x: sliced(n, n.node("Concat", x, n.constant(np.ones((1, 2, 4))), axis=0), 0, 3, 0),
    "itself beside": lambda n, x: sliced(n, n.node("Concat", x, x, axis=1), 1, 3, 1),
    "itself behind": lambda n, x: sliced(n, n.node("Concat", x, x, axis=2), 2, 6, 2),
    "zeros around": lambda n, x: sliced(n, n.node("Pad", x, n.ints(0, 0, 1, 0, 0, 1)), 1, 5, 2),
    "zeros above": lambda n, x: sliced(n, n.node("Pad", x, n.ints(0, 0, 0, 1, 0, 0)), 0, 3, 0),
    "tiled": lambda n, x: sliced(n, n.node("Tile", x, n.ints(1, 1, 2)), 0, 4, 2),
    "expanded": lambda n, x: n.node(
        "ReduceMean", n.node("Expand", n.node("Unsqueeze", x, n.ints(1)), n.ints(3, 3, 2, 4)), axes=[1], keepdims=0
    ),
    "one matrix for all heads": lambda n, x: n.node("MatMul", x, n.constant(n.normal(4, 4))),
    "heads mixed": lambda n, x: n.node("MatMul", n.constant(n.normal(2, 2)), x),
    "equation": lambda n, x: n.node("Einsum", x, n.constant(n.normal(2, 2)), equation="nhd,hk->nkd"),
    "attention": attention,
    "softmax over heads": lambda n, x: n.node("Softmax", x, axis=1),
    "sum so far": lambda n, x: n.node("CumSum", x, n.constant(np.array(0))),
    "LayerNormalization": lambda n, x: n.node("LayerNormalization", x, n.constant(np.ones(4))),
    "BatchNormalization": lambda n, x: n.batchnorm(x, np.ones(2), np.zeros(2), np.zeros(2), np.ones(2)),
    "Conv over heads": lambda n, x: n.conv("inner", x, n.normal(2, 2, 1)),
    "GRU": gru,
}

CHOICES: list[dict[str, Any]] = [
    {"lossless": True, "align": 1},
    {"threshold": 0.3, "align": 1},
    {"threshold": 0.3, "merge": "delete", "align": 2},
]


@pytest.mark.parametrize("name", OPERATORS)
def test_lines_under_one_operator(name: str) -> None:
    """Copies at the same place of each head, or at different ones; `condense` proves what it writes."""
    for copy, main in ((5, 4), (7, 4)):
        net = Net()
        rows = net.normal(8, 6)
        rows[1], rows[copy] = rows[0], rows[main]
        hidden = net.node("Reshape", net.dense("producer", net.input(3, 6), rows), net.ints(3, 2, 4))
        hidden = net.node("Relu", net.node("Reshape", OPERATORS[name](net, hidden), net.ints(3, 8)))
        model = net.build(net.dense("consumer", hidden, net.normal(3, 8)))
        for options in CHOICES:
            small = condense(model, Options(**options)).model
            if "lossless" in options:
                assert_close(model, small, 2e-5)
