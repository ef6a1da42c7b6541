"""The forms in which attention is written: by exporters, by fused operators, with queries and keys that are rotated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.attention import INPUTS, PLACES, WIDTH, Attention
from support.planted.net import Array

Build = Callable[[Attention], onnx.ModelProto]

FAST, ALIKE = (1.0, 0.3, 0.1), (0.5, 0.5, 0.5)
"""How fast the angles of pairs grow."""


def separate(attention: Attention) -> onnx.ModelProto:
    return attention.model()


def equations(attention: Attention) -> onnx.ModelProto:
    net, shape = attention.net, attention.net.ints(-1, PLACES, 2, WIDTH)
    q, k, v = (net.node("Reshape", attention.made(name), shape) for name in "qkv")
    scores = net.node("Softmax", net.node("Einsum", q, k, equation="bnhd,bmhd->bhnm"), axis=-1)
    summed = net.node("Einsum", scores, v, equation="bhnm,bmhd->bnhd")
    return attention.build(net.node("Reshape", summed, net.ints(-1, PLACES, 2 * WIDTH)))


def repeated(attention: Attention) -> onnx.ModelProto:
    """Keys that several heads share, repeated for each of them."""
    net, few, many = attention.net, attention.heads["k"], attention.heads["q"]

    def each(data: str) -> str:
        shape = net.ints(1, few, many // few, PLACES, WIDTH)
        wide = net.node("Expand", net.node("Unsqueeze", data, net.ints(2)), shape)
        return net.node("Reshape", wide, net.ints(-1, many, PLACES, WIDTH))

    scores = attention.scores(attention.split("q"), each(attention.split("k")))
    return attention.build(attention.attended(scores, each(attention.split("v"))))


def fused(attention: Attention) -> onnx.ModelProto:
    """With a bias of all three in the same node."""
    net = attention.net
    bias = net.constant(np.concatenate([attention.bias[name] for name in "qkv"]))
    parts = (net.matmul(name, attention.x, attention.rows[name]) for name in "qkv")
    made = net.node("MultiHeadAttention", *parts, bias, num_heads=2, domain="com.microsoft")
    return shaped(attention.build(made))


def beside(attention: Attention) -> onnx.ModelProto:
    """By the standard's operator, heads next to each other."""
    net, heads = attention.net, attention.heads
    net.opset = 23
    parts = (attention.made(name) for name in "qkv")
    return attention.build(net.node("Attention", *parts, q_num_heads=heads["q"], kv_num_heads=heads["k"]))


def apart(attention: Attention) -> onnx.ModelProto:
    """By the standard's operator, heads on an axis of their own."""
    net = attention.net
    net.opset = 23
    made = net.node("Attention", *(attention.split(name) for name in "qkv"))
    shape = net.ints(-1, PLACES, attention.heads["q"] * WIDTH)
    return attention.build(net.node("Reshape", net.node("Transpose", made, perm=[0, 2, 1, 3]), shape))


def rotated(attention: Attention, data: str, halves: bool, frequencies: Sequence[float]) -> str:
    """[batch, heads, places, width] with pairs turned by angles that grow with the place: RoPE, in both forms."""
    net, half = attention.net, WIDTH // 2
    angles = np.arange(PLACES)[:, None] * np.array(frequencies)[None]
    if halves:
        cos, sin = (net.constant(np.concatenate([f(angles)] * 2, axis=1)) for f in (np.cos, np.sin))
        first = net.node("Slice", data, net.ints(0), net.ints(half), net.ints(3))
        second = net.node("Slice", data, net.ints(half), net.ints(WIDTH), net.ints(3))
        turned = net.node("Concat", net.node("Neg", second), first, axis=3)
        return net.node("Add", net.node("Mul", data, cos), net.node("Mul", turned, sin))
    shaped = net.node("Reshape", data, net.ints(0, 2, PLACES, half, 2))
    a, b = net.multiple("Split", shaped, net.ints(1, 1), outputs=2, axis=-1)
    cos, sin = (net.constant(f(angles)[:, :, None]) for f in (np.cos, np.sin))
    first = net.node("Sub", net.node("Mul", a, cos), net.node("Mul", b, sin))
    second = net.node("Add", net.node("Mul", a, sin), net.node("Mul", b, cos))
    return net.node("Reshape", net.node("Concat", first, second, axis=-1), net.ints(0, 2, PLACES, WIDTH))


def stepping(attention: Attention, name: str, frequencies: Sequence[float]) -> str:
    """The same of pairs side by side, by every second channel and as many rows of a table as there are places."""
    net, half = attention.net, WIDTH // 2
    angles = np.arange(PLACES + 3)[:, None, None] * np.array(frequencies)
    end = net.node("Gather", net.node("Shape", attention.x), net.ints(1))
    cos, sin = (net.node("Slice", net.constant(f(angles)), net.ints(0), end, net.ints(0)) for f in (np.cos, np.sin))
    data, last = net.node("Reshape", attention.made(name), net.ints(-1, PLACES, 2, WIDTH)), net.ints(2**63 - 1)
    a, b = (net.node("Slice", data, net.ints(first), last, net.ints(3), net.ints(2)) for first in (0, 1))
    first = net.node("Sub", net.node("Mul", a, cos), net.node("Mul", b, sin))
    second = net.node("Add", net.node("Mul", a, sin), net.node("Mul", b, cos))
    parts = (net.node("Unsqueeze", part, net.ints(-1)) for part in (first, second))
    shape = net.ints(-1, PLACES, 2, 2 * half)
    return net.node("Transpose", net.node("Reshape", net.node("Concat", *parts, axis=-1), shape), perm=[0, 2, 1, 3])


def with_rotations(attention: Attention, form: str, frequencies: Sequence[float]) -> onnx.ModelProto:
    if form == "steps":
        q, k = (stepping(attention, name, frequencies) for name in "qk")
    else:
        q, k = (rotated(attention, attention.split(name), form == "halves", frequencies) for name in "qk")
    return attention.build(attention.attended(attention.scores(q, k), attention.split("v")))


def pair(number: int, form: str) -> tuple[int, int]:
    return (number, number + WIDTH // 2) if form.endswith("halves") else (2 * number, 2 * number + 1)


def of_any_length(attention: Attention, form: str) -> onnx.ModelProto:
    """Tables of which as many rows are taken as there are places."""
    net = attention.net
    net.inputs[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", INPUTS]))
    end = net.node("Gather", net.node("Shape", "x"), net.ints(1))
    angles, last = np.arange(40)[:, None] * np.array(FAST), net.ints(2**63 - 1)
    angles = np.concatenate([angles] * 2, axis=1) if form == "halves" else angles[:, None]

    def taken(table: Array) -> str:
        rows = net.node("Slice", net.constant(table), net.ints(0), end, net.ints(0))
        return net.node("Unsqueeze", rows, net.ints(0, 1)) if form == "halves" else rows

    cos, sin = taken(np.cos(angles)), taken(np.sin(angles))

    made = {name: net.node("Reshape", attention.made(name), net.ints(0, -1, 2, WIDTH)) for name in "qkv"}

    def halves(name: str) -> str:
        data = net.node("Transpose", made[name], perm=[0, 2, 1, 3])
        a, b = net.multiple("Split", data, net.ints(WIDTH // 2, WIDTH // 2), outputs=2, axis=3)
        turned = net.node("Concat", net.node("Neg", b), a, axis=3)
        return net.node("Add", net.node("Mul", data, cos), net.node("Mul", turned, sin))

    def steps(name: str) -> str:
        a, b = (net.node("Slice", made[name], net.ints(at), last, net.ints(3), net.ints(2)) for at in (0, 1))
        first = net.node("Sub", net.node("Mul", a, cos), net.node("Mul", b, sin))
        second = net.node("Add", net.node("Mul", a, sin), net.node("Mul", b, cos))
        parts = (net.node("Unsqueeze", part, net.ints(-1)) for part in (first, second))
        whole = net.node("Reshape", net.node("Concat", *parts, axis=-1), net.ints(0, -1, 2, WIDTH))
        return net.node("Transpose", whole, perm=[0, 2, 1, 3])

    q, k = ((halves if form == "halves" else steps)(name) for name in "qk")
    values = net.node("Transpose", made["v"], perm=[0, 2, 1, 3])
    summed = net.node("MatMul", net.node("Softmax", attention.scores(q, k), axis=-1), values)
    turned = net.node("Transpose", summed, perm=[0, 2, 1, 3])
    return attention.build(net.node("Reshape", turned, net.ints(0, -1, 2 * WIDTH)))


def by_operators(attention: Attention, form: str) -> onnx.ModelProto:
    """By RotaryEmbedding and an attention of onnxruntime, or of operator set 23."""
    net, standard = attention.net, form.startswith("standard")
    angles = np.arange(40)[:, None] * np.array(FAST)
    tables = net.constant(np.cos(angles)), net.constant(np.sin(angles))
    how = {"interleaved": int(not form.endswith("halves"))}
    if standard:
        net.opset = 23
        net.inputs.append(helper.make_tensor_value_info("at", TensorProto.INT64, ["batch", PLACES]))
    parts = [attention.made(name) for name in "qkv"]
    for side in (0, 1):
        if standard:
            parts[side] = net.node("RotaryEmbedding", parts[side], *tables, "at", num_heads=2, **how)
        else:
            given = parts[side], net.ints(0), *tables
            parts[side] = net.node("RotaryEmbedding", *given, domain="com.microsoft", **how)
    if standard:
        return attention.build(net.node("Attention", *parts, q_num_heads=2, kv_num_heads=2))
    return shaped(attention.build(net.node("MultiHeadAttention", *parts, num_heads=2, domain="com.microsoft")))


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the shape of its output, which none is inferred of behind operators that ONNX does not know."""
    made = model.graph.output[0]
    made.CopyFrom(helper.make_tensor_value_info(made.name, TensorProto.FLOAT, ["batch", PLACES, 4]))
    return model


def of_given_values(attention: Attention) -> onnx.ModelProto:
    """Values that are an input have no channels to lose."""
    net = attention.net
    values = net.input("batch", PLACES, 2 * WIDTH, name="z")
    net.opset = 23
    parts = (attention.made(name) for name in "qk")
    return attention.build(net.node("Attention", *parts, values, q_num_heads=2, kv_num_heads=2))
