"""Residual streams that normalizations read, whose writers fill a few directions, in the forms that exporters write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.planted.net import Array, Net, run

WORDS, WIDTH, RANK, PLACES, HIDDEN = 30, 16, 5, 4, 6
EPSILON = 0.05
"""Large, so that it matters."""

CENTRED = ("layer", "layer in parts", "skip layer")
FORMS = (*CENTRED, "rms", "standard rms", "rms in parts", "rms by power", "skip rms")


@dataclass
class Stream:
    """A language model of dense blocks around which a sum goes; its tables and layers write in RANK directions.

    form: of normalizations. faint: how much is written in other directions, too.
    last: [batch, PLACES, WIDTH] of the sum, once it is built.
    """

    form: str
    seed: int = 0
    rank: int = RANK
    faint: float = 0.0
    net: Net = field(init=False)
    last: str = ""

    def __post_init__(self) -> None:
        self.net = Net(opset=23 if self.form == "standard rms" else 17, seed=self.seed)
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", PLACES])
        self.net.inputs.append(ids)
        self.turn = np.linalg.qr(self.net.normal(WIDTH, WIDTH))[0][:, : self.rank]

    @property
    def left(self) -> int:
        """Directions that are needed: one more where the mean is."""
        return self.rank + (self.form in CENTRED)

    def within(self, count: int) -> Array:
        """[WIDTH, count] columns within the directions of the stream."""
        found = self.turn @ self.net.normal(self.rank, count)
        return np.asarray(found + (self.faint * self.net.normal(WIDTH, count) if self.faint else 0), dtype=np.float32)

    def embedded(self) -> str:
        net = self.net
        words = net.node("Gather", net.constant(self.within(WORDS).T, "words"), "ids")
        return net.node("Add", words, net.constant(self.within(PLACES).T, "places"))

    def normalized(self, data: str, *skip: str) -> str:
        """`data`, or its sum with `skip`, which is `last` then."""
        net, centred = self.net, self.form in CENTRED
        parameters = [net.constant(1 + net.normal(WIDTH) / 4)]
        parameters += [net.constant(net.normal(WIDTH) / 4)] if centred else []
        if skip and self.form.startswith("skip"):
            op = "SkipLayerNormalization" if centred else "SkipSimplifiedLayerNormalization"
            made = [net.fresh("skip"), net.fresh("sum")]
            outputs = [made[0], "", "", made[1]]
            node = helper.make_node(op, [data, *skip, *parameters], outputs, made[0], domain="com.microsoft")
            node.attribute.append(helper.make_attribute("epsilon", EPSILON))
            net.nodes.append(node)
            self.last = made[1]
            return made[0]
        self.last = net.node("Add", data, *skip) if skip else data
        ops = {"rms": "SimplifiedLayerNormalization", "skip rms": "SimplifiedLayerNormalization"}
        ops |= {"standard rms": "RMSNormalization"} | dict.fromkeys(CENTRED, "LayerNormalization")
        if self.form in ops and "parts" not in self.form:
            return net.node(ops[self.form], self.last, *parameters, axis=-1, epsilon=EPSILON)
        return self._in_parts(self.last, parameters)

    def _in_parts(self, data: str, parameters: list[str]) -> str:
        net = self.net
        if self.form in CENTRED:
            data = net.node("Sub", data, net.node("ReduceMean", data, axes=[-1]))
        squares = net.node("Mul", data, data) if self.form == "rms in parts" else self._by(data, 2.0)
        mean = net.node("Add", net.node("ReduceMean", squares, axes=[-1]), net.constant(np.float32(EPSILON)))
        if self.form == "rms in parts":
            made = net.node("Mul", data, net.node("Reciprocal", net.node("Sqrt", mean)))
        elif self.form == "rms by power":
            made = net.node("Mul", data, self._by(mean, -0.5))
        else:
            made = net.node("Div", data, net.node("Sqrt", mean))
        made = net.node("Mul", parameters[0], made)
        return net.node("Add", made, parameters[1]) if self.form in CENTRED else made

    def _by(self, data: str, power: float) -> str:
        return self.net.node("Pow", data, self.net.constant(np.float32(power)))

    def block(self, number: int, normalized: str) -> str:
        """A dense layer there and back."""
        net = self.net
        hidden = net.matmul(f"up{number}", normalized, net.normal(HIDDEN, WIDTH), net.normal(HIDDEN))
        return net.matmul(f"down{number}", net.node("Tanh", hidden), self.within(HIDDEN), self.within(1)[:, 0])

    def logits(self) -> str:
        """Two blocks, and a head."""
        first = self.embedded()
        second = self.block(0, self.normalized(first))
        third = self.block(1, self.normalized(first, second))
        return self.net.matmul("head", self.normalized(self.last, third), self.net.normal(7, WIDTH))

    def build(self, *outputs: str) -> onnx.ModelProto:
        """ids to outputs."""
        model = self.net.build(*outputs)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return model

    def model(self) -> onnx.ModelProto:
        """ids to logits."""
        return self.build(self.logits())


def answers(model: onnx.ModelProto) -> list[Any]:
    """What a model says of some words."""
    feed: Mapping[str, Any] = {"ids": np.random.default_rng(1).integers(0, WORDS, (3, PLACES))}
    return run(model, feed)


def sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
