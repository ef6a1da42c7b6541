"""Random graphs of attention in one node, and of sums normalized in one: beyond wider_graphs.py.

`graph(seed)` is the same graph for the same seed. Streams are [batch, T, channels]; in each head, queries and keys have
planted copies of channels, and so have values and the layers between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from support.choices import Choices, Seeded
from support.planted.net import Net

DOMAIN = "com.microsoft"
POSITIONS, TOKENS = 600, 30

Step = Callable[[str], str]


class Attending:
    """Draws a graph, step by step; every step takes a stream and gives one of the same width."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.opset = self.pick([13, 17, 21, 23, 23, 23])
        self.net = Net(self.opset, self.number(0, 2**16))
        self.heads, self.head = self.pick([(1, 4), (2, 4), (2, 6), (4, 4)])
        self.width = self.heads * self.head
        self.functions: list[onnx.FunctionProto] = []
        self.also: list[str] = []
        self.layers = 0
        self.tied: dict[tuple[Any, ...], str] = {}
        self.ties = self.number(0, 3) == 0
        self.plants = self.number(0, 4) > 0

    def pick(self, values: Any) -> Any:
        return self.choices.pick(values)

    def number(self, low: int, high: int) -> int:
        return self.choices.number(low, high)

    def flag(self) -> bool:
        return self.pick([False, True])

    # ---- weights and inputs

    def rows(self, outputs: int, inputs: int, heads: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows and biases, in each head some multiples of others, or zeros, or all in few directions."""
        rows = self.net.normal(heads, outputs // heads, inputs + 1) * np.float32(0.5)
        size = outputs // heads
        for _ in range(self.number(1, max(1, size // 2)) if self.plants and size > 1 else 0):
            copy, main = self.number(0, size - 1), self.number(0, size - 1)
            rows[:, copy] = np.float32(self.pick([1.0, 1.7, -0.6, 0.0])) * rows[:, main]
        if self.plants and size > 1 and self.number(0, 3) == 0:
            directions = self.net.normal(heads, size, self.number(1, size - 1)).astype(np.float64)
            rows = (directions @ np.linalg.pinv(directions) @ rows).astype(np.float32)
        rows = rows.reshape(outputs, inputs + 1)
        return rows[:, :-1], rows[:, -1]

    def stored(self, kind: str, value: NDArray[Any]) -> str:
        """An initializer, or in graphs whose weights are shared the first one of that kind and shape."""
        if not self.ties:
            return self.net.constant(value)
        key = kind, value.shape
        if key not in self.tied:
            self.tied[key] = self.net.constant(value)
        return self.tied[key]

    def dense(self, kind: str, data: str, outputs: int, inputs: int, heads: int = 1, bias: bool | None = None) -> str:
        rows, shift = self.rows(outputs, inputs, heads)
        self.layers += 1
        made = self.net.node("MatMul", data, self.stored(kind, rows.T), name=f"layer{self.layers}_{kind}")
        if bias is None:
            bias = self.flag()
        return self.net.node("Add", made, self.stored(f"{kind}.bias", shift)) if bias else made

    def port(self, name: str, kind: int, *shape: int | str) -> str:
        """A further input of the model, the same one for the same name."""
        if name not in {port.name for port in self.net.inputs}:
            self.net.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def gamma(self, beta: bool) -> list[str]:
        values = [1 + self.net.normal(self.width) / 4, self.net.normal(self.width)]
        return [self.net.constant(value) for value in values[: 1 + beta]]

    # ---- steps

    def fused(self, x: str) -> str:
        """Attention of onnxruntime."""
        net, n, head = self.net, self.heads, self.head
        sizes = [self.width] * 2 + [n * self.pick([head, head, 3, 2 * head])]
        parts = [self.rows(size, self.width, n) for size in sizes]
        rows, shift = (np.concatenate([part[i] for part in parts]) for i in range(2))
        kind = self.pick(["", "", "rows", "lengths", "both", "square"])
        given: dict[str, Any] = {"num_heads": n, "domain": DOMAIN}
        given |= self.drawn(scale=0.3, unidirectional=1, mask_filter_value=-50.0)
        if len(set(sizes)) > 1 or self.number(0, 3) == 0:
            given["qkv_hidden_sizes"] = sizes
        inputs = [x, self.stored("qkv", rows.T), self.stored("qkv.bias", shift) if self.flag() else ""]
        past = sizes[2] == self.width and self.number(0, 9) == 0
        inputs += ["" if past else self.mask(kind)]
        if past:
            inputs.append(self.port(f"past{head}", TensorProto.FLOAT, 2, "batch", n, "P", head))
        elif self.number(0, 3) == 0:
            inputs += ["", self.scores()]
        kept = [1, 1, 2] if sizes[2] == self.width else [1]  # else onnxruntime leaves a part of what is kept unwritten
        made = net.multiple("Attention", *inputs, outputs=2 if past else self.pick(kept), **given)
        return self.attended(made, sizes[2])

    def drawn(self, **attributes: Any) -> dict[str, Any]:
        """Some of them."""
        return {name: value for name, value in attributes.items() if self.number(0, 3) == 0}

    def attended(self, made: list[str], width: int) -> str:
        """The output projection; now and then other outputs are the model's, too."""
        for other in made[1:]:
            if self.flag():
                self.also.append(other)
        return self.dense("o", made[0], self.width, width)

    def mask(self, kind: str) -> str:
        shapes = {"rows": ("batch", "T"), "lengths": ("batch",), "both": ("batch", "T"), "square": ("batch", "T", "T")}
        if not kind:
            return ""
        if kind == "both" and self.flag():
            return self.port("mask_ends", TensorProto.INT32, "batch + batch")
        return self.port(f"mask_{kind}", TensorProto.INT32, *shapes[kind])

    def scores(self, keys: str = "T") -> str:
        """What is added to the sums of products."""
        if self.flag():
            return self.port(f"scores_{keys}", TensorProto.FLOAT, "batch", self.heads, "T", keys)
        return self.port(f"score_{keys}", TensorProto.FLOAT, 1, 1, "T", keys)

    def multi(self, x: str) -> str:
        """MultiHeadAttention of onnxruntime, of one stream or of two."""
        net, n = self.net, self.heads
        values = n * self.pick([self.head, self.head, 3])
        across = self.number(0, 3) == 0
        other, keys = (self.port("other", TensorProto.FLOAT, "batch", "P", 5), "P") if across else (x, "T")
        size = 5 if across else self.width
        past = self.number(0, 9) == 0
        values = self.width if past else values
        given: dict[str, Any] = {"num_heads": n, "domain": DOMAIN}
        given |= self.drawn(scale=0.3, mask_filter_value=-50.0)
        if not across:
            given |= self.drawn(unidirectional=1)
        q = self.dense("q", x, self.width, self.width, n)
        tail: list[str] = []
        data = [q, self.dense("k", other, self.width, size, n), self.dense("v", other, values, size, n)]
        if not across and self.number(0, 2) == 0:
            data[:2] = self.rotations(data[:2], (n, n))
        whole = 2 * self.width + values
        bias = self.stored("mha.bias", self.net.normal(whole)) if self.flag() else ""
        pad = "" if past or self.flag() else self.port(f"mask_{keys}", TensorProto.INT32, "batch", keys)
        added = self.scores(keys) if not past and self.number(0, 3) == 0 else ""
        if past:
            tail = [self.port(f"past_{s}{self.head}", TensorProto.FLOAT, "batch", n, "H", self.head) for s in "kv"]
        made = net.multiple(
            "MultiHeadAttention", *data, bias, pad, added, *tail, outputs=3 if past else self.pick([1, 1, 3]), **given
        )
        return self.attended(made, values)

    def rotations(self, data: list[str], heads: tuple[int, int], by_head: bool = False) -> list[str]:
        """Queries and keys turned by their places."""
        net, ours = self.net, self.opset < 23 or self.flag()
        pairs = self.head // 2
        angles = np.arange(POSITIONS)[:, None] * 0.1 ** np.arange(pairs)
        tables = [net.constant(np.cos(angles)), net.constant(np.sin(angles))]
        given: dict[str, Any] = self.drawn(interleaved=1)
        if self.number(0, 4) == 0:
            tables = [net.constant(table[:, :1]) for table in (np.cos(angles), np.sin(angles))]
            given["rotary_embedding_dim"] = 2
        kind = self.pick(["first", "each"]) if ours else "each"
        places = net.ints(0) if kind == "first" else self.port("positions", TensorProto.INT64, "batch", "T")
        made = []
        for tensor, count in zip(data, heads, strict=True):
            named = (
                {"num_heads": count}
                if (not by_head and (not ours or self.flag())) or "rotary_embedding_dim" in given
                else {}
            )
            inputs = [tensor, places, *tables] if ours else [tensor, *tables, places]
            made.append(net.node("RotaryEmbedding", *inputs, domain=DOMAIN if ours else "", **given, **named))
        return made

    def standard(self, x: str) -> str:
        """Attention of operator set 23."""
        if self.opset < 23:
            return self.multi(x)
        net, n = self.net, self.heads
        few = self.pick([f for f in (1, n) if n % f == 0])
        size = few * self.pick([self.head, 3])
        q = self.dense("q", x, self.width, self.width, n)
        k, v = (self.dense(name, x, s, self.width, few) for name, s in (("k", few * self.head), ("v", size)))
        given: dict[str, Any] = self.drawn(scale=0.3, softcap=2.0, is_causal=1, qk_matmul_output_mode=self.number(0, 3))
        apart = self.flag()
        data = [q, k, v]
        if apart:
            for i, (tensor, count) in enumerate(zip(data, (n, few, few), strict=True)):
                data[i] = net.node(
                    "Transpose", net.node("Reshape", tensor, net.ints(0, 0, count, -1)), perm=[0, 2, 1, 3]
                )
        else:
            given |= {"q_num_heads": n, "kv_num_heads": few}
        if self.number(0, 2) == 0:
            data[:2] = self.rotations(data[:2], (n, few), apart)
        tail: list[str] = []
        kind = self.pick(["", "", "", "mask", "mask", "bool", "bool", "two", "past"])
        if kind == "mask":
            tail = [self.scores()]
        elif kind == "two":
            tail = [self.port("mask2", TensorProto.FLOAT, "T", "T")]
        elif kind == "bool":
            tail = [
                net.node("Cast", self.port("mask_square", TensorProto.INT32, "batch", "T", "T"), to=TensorProto.BOOL)
            ]
            tail = [net.node("Unsqueeze", tail[0], net.ints(1))]
        elif kind == "past":
            sizes = (("k", self.head), ("v", size // few))
            tail = ["", *(self.port(f"past_{s}{few}{w}", TensorProto.FLOAT, "batch", few, "H", w) for s, w in sizes)]
        made = net.multiple(
            "Attention", *data, *tail, outputs=self.pick([3, 4] if kind == "past" else [1, 1, 3, 4]), **given
        )
        if len(made) == 4 and kind != "past" and self.flag():
            net.nodes[-1].output[1:3] = ["", ""]
            made = [made[0], made[3]]
        head = size // few
        if apart:
            made[0] = net.node("Reshape", net.node("Transpose", made[0], perm=[0, 2, 1, 3]), net.ints(0, 0, n * head))
        return self.attended(made, n * head)

    def grouped(self, x: str) -> str:
        """GroupQueryAttention of onnxruntime."""
        net, n, head = self.net, 2, 16
        few, packed = self.pick([1, 2]), self.flag()
        sizes = [n * head, few * head, few * head]
        if packed:
            data = [self.dense("gqa", x, sum(sizes), self.width), "", ""]
        else:
            data = [self.dense(f"g{i}", x, s, self.width, s // head) for i, s in enumerate(sizes)]
        whole = net.node("Cast", net.node("Gather", net.node("Shape", x), net.ints(1)), to=TensorProto.INT32)
        last = net.node("Sub", whole, net.constant(np.array([1], dtype=np.int32)))
        batch = net.node("Gather", net.node("Shape", x), net.ints(0))
        given: dict[str, Any] = {"num_heads": n, "kv_num_heads": few} | self.drawn(scale=0.3, softcap=2.0)
        inputs = [*data, "", "", net.node("Expand", last, batch), net.node("Squeeze", whole)]
        if self.number(0, 2) == 0:
            angles = np.arange(POSITIONS)[:, None] * 0.1 ** np.arange(head // 2)
            inputs += [net.constant(np.cos(angles)), net.constant(np.sin(angles))]
            given |= {"do_rotary": 1} | self.drawn(rotary_interleaved=1)
        made = net.multiple("GroupQueryAttention", *inputs, outputs=3, domain=DOMAIN, **given)
        return self.attended(made, n * head)

    def feedforward(self, x: str) -> str:
        """Two layers, or a gate."""
        net, inner = self.net, self.number(5, 9)
        made = self.dense("up", x, inner, self.width)
        kind = self.pick(["Relu", "gate", "Tanh"])
        if kind == "gate":
            made = net.node("Mul", net.node("Sigmoid", self.dense("gate", x, inner, self.width)), made)
        else:
            made = net.node(kind, made)
        return self.dense("down", made, self.width, inner)

    # ---- sums around them

    def summed(self, x: str, made: str) -> str:
        """The next stream: a sum, normalized, of one node or of several."""
        net = self.net
        kind = self.pick(["skip", "skip", "simple", "add", "norm", "rms"])
        if kind in ("skip", "simple"):
            op = "SkipLayerNormalization" if kind == "skip" else "SkipSimplifiedLayerNormalization"
            bias = [self.net.constant(net.normal(self.width))] if self.flag() else []
            sides = [made, x] if self.flag() else [x, made]
            given = self.drawn(epsilon=1e-3)
            parts = net.multiple(
                op, *sides, *self.gamma(kind == "skip"), *bias, outputs=self.pick([1, 4]), domain=DOMAIN, **given
            )
            if len(parts) > 1:
                net.nodes[-1].output[1:3] = ["", ""]
                return self.pick([parts[0], parts[3], net.node("Add", parts[0], parts[3])])
            return parts[0]
        total = net.node("Add", x, made)
        if kind == "add":
            return total
        if kind == "rms" and self.opset >= 23:
            return net.node("RMSNormalization", total, *self.gamma(False), **self.drawn(epsilon=1e-3))
        return net.node("LayerNormalization", total, *self.gamma(True)) if self.opset >= 17 else total

    def first(self) -> str:
        """What comes in: a stream, or tokens in tables."""
        net = self.net
        kind = self.pick(["stream", "stream", "embedded", "embedded", "gathered"])
        if kind == "stream":
            return self.dense("first", net.input("batch", "T", 5), self.width, 5)
        ids = self.port("ids", TensorProto.INT32, "batch", "T")
        rows, _ = self.rows(self.width, TOKENS)
        if self.number(0, 3) == 0:
            rows = net.normal(self.width, 2) @ net.normal(2, TOKENS)
        words = net.constant(rows.T)
        if kind == "gathered":
            return net.node("Gather", words, ids)
        segments = self.flag()
        tables = [net.constant(net.normal(n, self.width)) for n in (POSITIONS, 4)]
        inputs = [ids, self.port("segments", TensorProto.INT32, "batch", "T") if segments else "", words, tables[0]]
        inputs += [tables[1] if segments else "", *self.gamma(True)]
        inputs += [self.mask(self.pick(["", "rows"]))]
        if self.flag():
            inputs.append(self.port("places", TensorProto.INT32, "batch", "T"))
        made = net.multiple(
            "EmbedLayerNormalization", *inputs, outputs=self.pick([2, 3]), domain=DOMAIN, **self.drawn(epsilon=1e-3)
        )
        return self.pick(made[::2])

    # ---- beside the graph

    def around(self, step: Step, x: str) -> str:
        """A step, now and then inside a body or a function."""
        net, start, also = self.net, len(self.net.nodes), len(self.also)
        made = step(x)
        kind = self.pick(["graph"] * 5 + ["branch", "loop", "function"])
        if kind == "graph" or len(self.also) > also:
            return made
        nodes = net.nodes[start:]
        del net.nodes[start:]
        if kind == "function":
            inside = {name for node in nodes for name in node.output}
            outer = sorted({name for node in nodes for name in node.input if name} - inside)
            name, domains = net.fresh("Block"), sorted({"", *(node.domain for node in nodes)})
            imports = [helper.make_opsetid(d, 1 if d else self.opset) for d in domains]
            self.functions.append(helper.make_function("local", name, outer, [made], nodes, imports))
            return net.node(name, *outer, domain="local")
        port = helper.make_tensor_value_info(made, TensorProto.FLOAT, None)
        if kind == "branch":
            last = net.fresh("other")
            half = helper.make_node("Mul", [x, net.constant(0.5)], [last])
            other = helper.make_graph([half], last, [], [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)])
            largest = net.node("ReduceMax", x, keepdims=0)
            condition = net.node("Greater", largest, net.constant(self.pick([-1e9, 0.7])))
            body = helper.make_graph(nodes, made, [], [port])
            return net.node("If", condition, then_branch=body, else_branch=other)
        for node in nodes:
            node.input[:] = [f"{made}.state" if name == x else name for name in node.input]
        state = helper.make_tensor_value_info(f"{made}.state", TensorProto.FLOAT, None)
        turn = helper.make_tensor_value_info(f"{made}.turn", TensorProto.INT64, [])
        on = helper.make_tensor_value_info(f"{made}.on", TensorProto.BOOL, [])
        goes = helper.make_node("Identity", [on.name], [f"{made}.goes"])
        going = helper.make_tensor_value_info(goes.output[0], TensorProto.BOOL, [])
        body = helper.make_graph([goes, *nodes], made, [turn, on, state], [going, port])
        return net.node("Loop", net.constant(np.array(2)), "", x, body=body)

    def model(self) -> onnx.ModelProto:
        x = self.first()
        for _ in range(self.number(1, 3)):
            step = self.pick(
                [self.fused, self.multi, self.standard, self.standard, self.grouped, self.fused, self.multi]
            )
            x = self.summed(x, self.around(step, x))
            if self.flag():
                x = self.summed(x, self.around(self.feedforward, x))
            if self.number(0, 9) == 0:
                self.also.append(x)
        head = self.dense("head", x, 3, self.width)
        model = self.net.build(head, *dict.fromkeys(self.also))
        model.functions.extend(self.functions)
        if self.functions:
            del model.graph.output[:]
            model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in [head, *dict.fromkeys(self.also)])
        return model


def graph(seed: int) -> onnx.ModelProto:
    """The graph of a seed."""
    return Attending(Seeded(seed)).model()
