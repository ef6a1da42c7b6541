"""Attention with planted copies of queries and keys, per head, in the forms that exporters write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from support.planted.net import Array, Net

PLACES, INPUTS, WIDTH = 5, 9, 6
"""Tokens, channels of each, and channels of a head."""

COPIES = ((1, 0, 1.7), (5, 2, -0.6), (2, 4, 0.5), (0, 3, 2.0))
"""In the first head, the second, ...: a channel, the one that it is a copy of, and the ratio."""


@dataclass
class Attention:
    """Rows and biases of queries, keys and values, by their first letters; `heads` of each."""

    heads: Mapping[str, int] = field(default_factory=lambda: {"q": 2, "k": 2, "v": 2})
    seed: int = 0
    biased: bool = True

    def __post_init__(self) -> None:
        self.net = Net(seed=self.seed)
        self.x = self.net.input("batch", PLACES, INPUTS)
        self.rows = {name: self.net.normal(n * WIDTH, INPUTS) * 0.5 for name, n in self.heads.items()}
        self.bias = {name: self.net.normal(n * WIDTH) * 0.3 for name, n in self.heads.items()}

    def copy(self, name: str, copies: Sequence[tuple[int, int, float]] = COPIES) -> Attention:
        """A copy in each head; heads that share keys have the same ones."""
        fewest = min(self.heads.values())
        for head in range(self.heads[name]):
            channel, main, ratio = copies[head * fewest // self.heads[name]]
            first = head * WIDTH
            for values in (self.rows[name], self.bias[name]):
                values[first + channel] = ratio * values[first + main]
        return self

    def made(self, name: str) -> str:
        """[batch, places, heads · width]."""
        return self.net.matmul(name, self.x, self.rows[name], self.bias[name] if self.biased else None)

    def split(self, name: str) -> str:
        """[batch, heads, places, width]."""
        return self.by_head(self.made(name), self.heads[name])

    def by_head(self, data: str, heads: int) -> str:
        shaped = self.net.node("Reshape", data, self.net.ints(-1, PLACES, heads, WIDTH))
        return self.net.node("Transpose", shaped, perm=[0, 2, 1, 3])

    def fused(self) -> str:
        """Queries, keys and values from one weight, side by side."""
        rows = [np.concatenate([values[name] for name in "qkv"]) for values in (self.rows, self.bias)]
        return self.net.matmul("qkv", self.x, *rows)

    def scores(self, queries: str, keys: str) -> str:
        """Of [batch, heads, places, width] each."""
        product = self.net.node("MatMul", queries, self.net.node("Transpose", keys, perm=[0, 1, 3, 2]))
        return self.net.node("Div", product, self.net.constant(np.float32(WIDTH**0.5)))

    def attended(self, scores: str, values: str) -> str:
        """[batch, places, heads · width]."""
        summed = self.net.node("MatMul", self.net.node("Softmax", scores, axis=-1), values)
        turned = self.net.node("Transpose", summed, perm=[0, 2, 1, 3])
        return self.net.node("Reshape", turned, self.net.ints(-1, PLACES, self.heads["q"] * WIDTH))

    def build(self, attended: str, *outputs: str) -> onnx.ModelProto:
        """With an output projection."""
        made = self.net.matmul("o", attended, self.normal(4, self.heads["q"] * WIDTH), self.normal(4))
        return self.net.build(made, *outputs)

    def normal(self, *shape: int) -> Array:
        return self.net.normal(*shape)

    def model(self) -> onnx.ModelProto:
        """As torch.onnx writes it."""
        return self.build(self.attended(self.scores(self.split("q"), self.split("k")), self.split("v")))


def head_by_head(attention: Attention) -> onnx.ModelProto:
    """A product for each head, of which there are no labels along heads."""
    net, parts = attention.net, {}
    for name in "qkv":
        parts[name] = net.multiple("Split", attention.made(name), net.ints(WIDTH, WIDTH), outputs=2, axis=-1)
    summed = []
    for q, k, v in zip(*parts.values(), strict=True):
        scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
        summed.append(net.node("MatMul", net.node("Softmax", scores, axis=-1), v))
    return attention.build(net.node("Concat", *summed, axis=-1))
