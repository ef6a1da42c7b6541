"""A small BERT as onnxruntime's optimizer writes it: whole blocks in one node each."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.planted.net import Array, Net

TOKENS, PLACES, WIDTH, HEADS, INNER = 40, 5, 12, 2, 20
MICROSOFT = "com.microsoft"


class FusedBert(Net):
    """Two layers; `copies`: how many channels of each head (queries and keys, values) and of the inner layers are.

    rank: of the table of words, full where it is 0.
    """

    def __init__(self, copies: tuple[int, int, int] = (0, 0, 0), rank: int = 0, opset: int = 17) -> None:
        super().__init__(opset)
        self.copies, self.rank = copies, rank

    def parameter(self, *shape: int, scale: float = 0.4) -> Array:
        return self.normal(*shape) * np.float32(scale)

    def by_head(self, rows: Array, count: int) -> Array:
        """Rows whose last `count` of each head are multiples of the first ones."""
        heads = rows.reshape(HEADS, WIDTH // HEADS, -1)
        for copy in range(1, count + 1):
            heads[:, -copy] = heads[:, copy - 1] * np.float32(0.7 + copy)
        return rows

    def words(self) -> Array:
        if not self.rank:
            return self.parameter(TOKENS, WIDTH)
        return self.parameter(TOKENS, self.rank) @ self.parameter(self.rank, WIDTH, scale=1.0)

    def norm(self, op: str, *inputs: str, bias: str = "", **attributes: object) -> str:
        gamma, beta = self.constant(1 + self.parameter(WIDTH)), self.constant(self.parameter(WIDTH))
        given = [*inputs, gamma, beta, bias]
        return self.node(op, *given, domain=MICROSOFT, epsilon=1e-5, **attributes)

    def layer(self, number: int, stream: str, mask: str) -> str:
        counts = self.copies[0], 0, self.copies[1]
        rows = np.concatenate([self.by_head(self.parameter(WIDTH, WIDTH + 1), count) for count in counts])
        weights = self.constant(rows[:, :-1].T, f"attention{number}.weight"), self.constant(rows[:, -1])
        made = self.node("Attention", stream, *weights, mask, num_heads=HEADS, domain=MICROSOFT)
        made = self.matmul(f"project{number}", made, self.parameter(WIDTH, WIDTH))
        stream = self.norm("SkipLayerNormalization", made, stream, bias=self.constant(self.parameter(WIDTH)))
        inner = self.parameter(INNER, WIDTH + 1)
        inner[: self.copies[2]] = inner[self.copies[2] : 2 * self.copies[2]]
        made = self.matmul(f"inner{number}", stream, inner[:, :-1])
        made = self.node("BiasGelu", made, self.constant(inner[:, -1]), domain=MICROSOFT)
        made = self.matmul(f"outer{number}", made, self.parameter(WIDTH, INNER))
        return self.norm("SkipLayerNormalization", made, stream, bias=self.constant(self.parameter(WIDTH)))

    def model(self, layers: int = 2) -> onnx.ModelProto:
        for name in ("ids", "segments", "mask"):
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", PLACES]))
        tables = [self.constant(self.words(), "words"), *(self.constant(self.parameter(n, WIDTH)) for n in (8, 2))]
        gamma, beta = self.constant(1 + self.parameter(WIDTH)), self.constant(self.parameter(WIDTH))
        stream, mask = self.multiple(
            "EmbedLayerNormalization", "ids", "segments", *tables, gamma, beta, "mask", outputs=2, domain=MICROSOFT
        )
        for number in range(layers):
            stream = self.layer(number, stream, mask)
        model = self.build(self.matmul("head", stream, self.parameter(3, WIDTH)))
        made = helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.FLOAT, ["batch", PLACES, 3])
        model.graph.output[0].CopyFrom(made)
        return model
