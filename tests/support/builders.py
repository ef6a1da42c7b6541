"""Small ONNX models for tests, written as readable ONNX text.

`build(text, weights)` is the base: a graph in the syntax of `onnx.parser`, and arrays that become its
initializers. The other builders return models whose best width is known: `clustered` rows, `mlp`, `convnet`,
`separable`, and `plant`, which makes channels of any model multiples of another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]
Weights = Mapping[str, Array | np.generic]


def build(
    text: str,
    weights: Weights | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    domains: Mapping[str, int] | None = None,
    check: bool = True,
) -> onnx.ModelProto:
    """A model from a graph in ONNX text: `g (float[N, 8] x) => (float[N, 3] y) { y = Gemm(x, w, b) }`.

    `weights` become initializers; nodes get no names (use `[name] y = Op(x)` in the text to name one).
    `domains` are further opset imports. `check` runs the full checker, so that a test never starts from an
    invalid model.
    """
    imports = "".join(f', "{domain}" : {version}' for domain, version in (domains or {}).items())
    model = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}{imports}]> {text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()
    )
    if check:
        onnx.checker.check_model(model, full_check=True)
    return model


# ---------------------------------------------------------------------------------------------------- weights


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Seeded normal float32 numbers."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def directions(count: int, size: int, seed: int = 0, limit: float = 0.6) -> Array:
    """[count, size] unit vectors, no two with |cosine| above `limit`: no threshold above it merges them."""
    generator = np.random.default_rng(seed)
    found = np.zeros((0, size))
    for _ in range(100_000):
        if len(found) == count:
            return found
        drawn = generator.standard_normal(size)
        drawn /= np.linalg.norm(drawn)
        if not len(found) or np.abs(found @ drawn).max() < limit:
            found = np.vstack([found, drawn])
    raise ValueError(f"no {count} directions of {size} numbers with |cosine| < {limit}")


def clustered(count: int, size: int, clusters: int, seed: int = 0, *, ratios: bool = True, noise: float = 0.0) -> Array:
    """[count, size] float32 rows in exactly `clusters` directions; row i belongs to cluster i % clusters.

    `ratios`: rows of one cluster differ by a positive factor of few binary digits, else they are equal.
    `noise` is the size of a random vector added to every row of norm about 1.
    """
    generator = np.random.default_rng(seed + 1)
    rows = directions(clusters, size, seed)[np.arange(count) % clusters]
    if ratios:
        rows = rows * generator.choice([0.5, 0.75, 1.0, 1.5, 2.0], count)[:, None]
    rows = rows + noise * generator.standard_normal((count, size)) / np.sqrt(size)
    result: Array = rows.astype(np.float32)
    return result


def plant(
    model: onnx.ModelProto,
    names: Sequence[str],
    copies: Mapping[int, int],
    ratios: Iterable[float] = (),
    axis: int = 0,
) -> onnx.ModelProto:
    """A model in which, in all initializers `names`, channel j is a multiple of channel m (`copies`: j: m).

    `ratios` go with the copies in order (1 where they run out); `axis` is the channel axis of the weights.
    """
    planted = onnx.ModelProto()
    planted.CopyFrom(model)
    factors = dict.fromkeys(copies, 1.0) | dict(zip(copies, ratios, strict=False))
    for name in names:
        value = weight(planted, name).copy()
        lines = np.moveaxis(value, axis, 0)
        for j, m in copies.items():
            lines[j] = lines[m] * factors[j]
        set_weight(planted, name, value)
    return planted


def weight(model: onnx.ModelProto, name: str) -> Array:
    """The value of an initializer."""
    return numpy_helper.to_array(_initializer(model, name))


def set_weight(model: onnx.ModelProto, name: str, value: Array) -> None:
    """Replaces an initializer in place."""
    _initializer(model, name).CopyFrom(numpy_helper.from_array(value, name))


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


# ---------------------------------------------------------------------------------------------------- models


def mlp(
    widths: Sequence[int],
    activation: str = "Relu",
    seed: int = 0,
    *,
    clusters: int | Sequence[int] | None = None,
    ratios: bool = True,
    noise: float = 0.0,
    batch: str = "N",
    dtype: str = "float",
    opset: int = 17,
) -> onnx.ModelProto:
    """Gemm layers `fc0`, `fc1`, … (`w0`, `b0`, …, [out, in]) with activations between; from `x` to `y`.

    `clusters`: in how many directions the rows of each hidden layer (bias included) lie, that is, the width
    that it should be condensed to; None draws rows that no threshold above 0.6 merges. `dtype` is "float",
    "float16" or "double".
    """
    hidden = len(widths) - 2
    wanted = [clusters] * hidden if clusters is None or isinstance(clusters, int) else list(clusters)
    kind = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    weights: dict[str, Array] = {}
    lines = []
    for layer, (size, count) in enumerate(pairwise(widths)):
        if layer < hidden:
            groups = wanted[layer] or count
            rows = clustered(count, size + 1, groups, seed + 10 * layer, ratios=ratios, noise=noise)
        else:
            rows = random(count, size + 1, seed=seed + 10 * layer)
        weights[f"w{layer}"], weights[f"b{layer}"] = rows[:, :-1].astype(kind), rows[:, -1].astype(kind)
        source, target = f"h{layer - 1}" if layer else "x", f"z{layer}" if layer < hidden else "y"
        lines.append(f"[fc{layer}] {target} = Gemm<transB = 1>({source}, w{layer}, b{layer})")
        if layer < hidden:
            lines.append(f"[act{layer}] h{layer} = {activation}(z{layer})")
    body = "\n".join(lines)
    text = f"mlp ({dtype}[{batch}, {widths[0]}] x) => ({dtype}[{batch}, {widths[-1]}] y) {{\n{body}\n}}"
    return build(text, weights, opset=opset)


def convnet(
    channels: Sequence[int] = (3, 8, 8),
    classes: int = 5,
    seed: int = 0,
    *,
    size: int = 8,
    activation: str = "Relu",
    batchnorm: bool = False,
    clusters: int | Sequence[int] | None = None,
    ratios: bool = True,
    noise: float = 0.0,
    batch: str = "N",
) -> onnx.ModelProto:
    """3x3 Conv layers `conv0`, … (`w0`, `b0`, …), each with an activation; GlobalAveragePool and Gemm `fc`.

    With `batchnorm` a BatchNormalization `bn0`, … (parameters `g0`, `beta0`, `mean0`, `var0`) follows every
    Conv, which has no bias then; rows of a cluster share their statistics, so that only `ratios=False` plants
    exact duplicates. `clusters` as in `mlp`.
    """
    layers = len(channels) - 1
    wanted = [clusters] * layers if clusters is None or isinstance(clusters, int) else list(clusters)
    weights: dict[str, Array] = {}
    lines, source = [], "x"
    for layer, (before, count) in enumerate(pairwise(channels)):
        groups = wanted[layer] or count
        rows = clustered(count, before * 9 + 1, groups, seed + 10 * layer, ratios=ratios, noise=noise)
        weights[f"w{layer}"] = rows[:, :-1].reshape(count, before, 3, 3)
        target = f"z{layer}"
        if batchnorm:
            lines.append(f"[conv{layer}] c{layer} = Conv<pads = [1, 1, 1, 1]>({source}, w{layer})")
            lines.append(
                f"[bn{layer}] {target} = BatchNormalization(c{layer}, g{layer}, beta{layer}, mean{layer}, var{layer})"
            )
            generator = np.random.default_rng(seed + 10 * layer + 5)
            member = np.arange(count) % groups
            weights[f"g{layer}"] = generator.uniform(0.5, 1.5, groups)[member].astype(np.float32)
            weights[f"beta{layer}"] = generator.normal(0, 0.3, groups)[member].astype(np.float32)
            weights[f"mean{layer}"] = generator.normal(0, 0.3, groups)[member].astype(np.float32)
            weights[f"var{layer}"] = generator.uniform(0.5, 2, groups)[member].astype(np.float32)
        else:
            weights[f"b{layer}"] = np.ascontiguousarray(rows[:, -1])
            lines.append(f"[conv{layer}] {target} = Conv<pads = [1, 1, 1, 1]>({source}, w{layer}, b{layer})")
        source = f"h{layer}"
        lines.append(f"[act{layer}] {source} = {activation}({target})")
    weights["wfc"], weights["bfc"] = (
        random(classes, channels[-1], seed=seed + 99),
        random(classes, seed=seed + 98),
    )
    lines += [
        f"[pool] p = GlobalAveragePool({source})",
        "[flatten] f = Flatten(p)",
        "[fc] y = Gemm<transB = 1>(f, wfc, bfc)",
    ]
    body = "\n".join(lines)
    shape = f"{batch}, {channels[0]}, {size}, {size}"
    text = f"convnet (float[{shape}] x) => (float[{batch}, {classes}] y) {{\n{body}\n}}"
    return build(text, weights)


def separable(
    expansion: int = 8, clusters: int | None = None, seed: int = 0, *, activation: str = "Relu", size: int = 6
) -> onnx.ModelProto:
    """1x1 Conv `expand` (we, be), depthwise 3x3 Conv `depthwise` (wd, bd), 1x1 Conv `project` (wp, bp).

    `clusters`: rows of the expansion lie in so many directions, and the depthwise stage keeps their ratios.
    """
    groups = clusters or expansion
    outer = clustered(expansion, 5, groups, seed)
    taps = clustered(expansion, 10, groups, seed + 1)
    # Taps of a cluster are equal; a bias scales with its input, else no channel is a multiple of another.
    ratio = np.linalg.norm(outer, axis=1) / np.linalg.norm(outer[np.arange(expansion) % groups], axis=1)
    taps = taps[np.arange(expansion) % groups]
    weights = {
        "we": outer[:, :-1].reshape(expansion, 4, 1, 1),
        "be": np.ascontiguousarray(outer[:, -1]),
        "wd": taps[:, :-1].reshape(expansion, 1, 3, 3),
        "bd": (taps[:, -1] * ratio).astype(np.float32),
        "wp": random(4, expansion, 1, 1, seed=seed + 2),
        "bp": random(4, seed=seed + 3),
    }
    text = f"""separable (float[N, 4, {size}, {size}] x) => (float[N, 4, {size}, {size}] y) {{
        [expand] e = Conv(x, we, be)
        [act0] r = {activation}(e)
        [depthwise] d = Conv<group = {expansion}, pads = [1, 1, 1, 1]>(r, wd, bd)
        [act1] s = {activation}(d)
        [project] y = Conv(s, wp, bp)
    }}"""
    return build(text, weights)


def noisy() -> onnx.ModelProto:
    """An MLP that 0.88 condenses at a visible price."""
    return mlp((8, 24, 24, 4), clusters=(6, 5), noise=0.2)


def cancelling() -> onnx.ModelProto:
    """The difference of two layers that are nearly the same: what is left is to a good part their rounding.

    What they read has ten copies of each channel.
    """
    hidden, columns = np.repeat(random(6, 40), 10, axis=1), random(400, 5, seed=1)
    text = """g (float[batch, 6] x) => (float[batch, 5] y) {
        h = MatMul(x, w0)
        r = Relu(h)
        a = MatMul(r, w1)
        b = MatMul(r, w2)
        y = Sub(a, b)
    }"""
    return build(text, {"w0": hidden, "w1": columns, "w2": columns + np.float32(1e-4) * random(400, 5, seed=2)})


def custom_operator() -> onnx.ModelProto:
    return build(
        "g (float[N, 8] x) => (float[N, 3] y) { h = mine.NoSuchOperator(x) y = MatMul(h, w) }",
        {"w": random(8, 3)},
        domains={"mine": 1},
        check=False,
    )


def head(*layers: Array) -> onnx.ModelProto:
    """Gemm layers `fc0`, … without bias and with Relu between; one layer alone gets a random last one."""
    matrices = [*layers] if len(layers) > 1 else [*layers, random(2, len(layers[0]))]
    lines = []
    for index, _ in enumerate(matrices):
        last = index == len(matrices) - 1
        lines.append(f"[fc{index}] {'y' if last else f'z{index}'} = Gemm<transB = 1>(h{index}, w{index})")
        lines += [] if last else [f"[act{index}] h{index + 1} = Relu(z{index})"]
    inputs, outputs = matrices[0].shape[1], len(matrices[-1])
    text = f"g (float[N, {inputs}] h0) => (float[N, {outputs}] y) {{ {' '.join(lines)} }}"
    return build(text, {f"w{index}": matrix for index, matrix in enumerate(matrices)})
