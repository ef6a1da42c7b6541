"""The paper's grouping and ratio merge, written from its text alone, for plain networks; nothing of the
package is used.

A network is a list of layers. A neuron is a row of a layer's parameter matrix with its bias; a
BatchNormalization behind it is a layer of its own, whose scale meets the row (Chen & Xu 2024, sections 2.1.1,
2.2.1 and 2.2.3). Two neurons condense when the cosine of their vectors is above a threshold. Among the
ungrouped neurons the one with the most condensed ungrouped neurons is the main neuron of the next group
(2.1.4); its consumer column becomes the sum of the group's columns, each times the ratio of the norms (2.1.3).

The specification adds: purely linear paths take either sign, bounded odd functions need equal or opposite
vectors, bounded functions that are not odd need equal ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

PAPER = ("Relu", "LeakyRelu", "Elu", "Softplus")
LINEAR = ("",)
ODD = ("Tanh", "Softsign")
BOUNDED = ("Sigmoid",)

EPSILON = 1e-5


@dataclass(frozen=True)
class Layer:
    """Weight [out, in] or [out, in, kh, kw]; what follows it: BatchNormalization, activation, MaxPool 2x2.

    norm: scale, shift, mean, variance. spatial: how many places per channel of the layer before a Flatten
    leaves (1: none).
    """

    weight: Doubles
    bias: Doubles | None = None
    norm: tuple[Doubles, Doubles, Doubles, Doubles] | None = None
    activation: str = ""
    pool: bool = False
    spatial: int = 1


def neurons(layer: Layer) -> Doubles:
    """[out, p + 1]: rows with bias, times the scale of a BatchNormalization."""
    rows = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
    bias = np.zeros(len(rows)) if layer.bias is None else layer.bias.astype(np.float64)
    if layer.norm is not None:
        scale, _, _, variance = (v.astype(np.float64) for v in layer.norm)
        gain = scale / np.sqrt(variance + EPSILON)
        rows, bias = rows * gain[:, None], bias * gain
    return np.concatenate([rows, bias[:, None]], axis=1)


def likeness(u: Doubles, v: Doubles, activation: str, pooled: bool = False) -> float:
    """How alike two neurons are."""
    dot, uu, vv = float(u @ v), float(u @ u), float(v @ v)
    if uu == 0 or vv == 0:
        return 0.0
    if activation in ODD:
        value = 2 * abs(dot) / (uu + vv) if not pooled else 2 * dot / (uu + vv)
    elif activation in BOUNDED:
        value = 2 * dot / (uu + vv)
    else:
        value = dot / (uu**0.5 * vv**0.5)
        if activation in LINEAR and not pooled:
            value = abs(value)
    return min(1.0, max(-1.0, value))


def ratio(vector: Doubles, main: Doubles, activation: str, pooled: bool = False) -> float:
    """What a neuron is of its main neuron."""
    sign = -1.0 if vector @ main < 0 and not pooled else 1.0
    if activation in BOUNDED:
        return 1.0
    if activation in ODD:
        return sign
    size = float(np.sqrt(vector @ vector) / np.sqrt(main @ main))
    return sign * size if activation in LINEAR else size


def groups(layer: Layer, threshold: float) -> dict[int, list[int]]:
    """Main neuron -> its group, itself included."""
    vectors = neurons(layer)
    count = len(vectors)
    condensed = [
        [i != j and likeness(vectors[i], vectors[j], layer.activation, layer.pool) > threshold for j in range(count)]
        for i in range(count)
    ]
    ungrouped = list(range(count))
    result: dict[int, list[int]] = {}
    while ungrouped:
        main = max(ungrouped, key=lambda i: (sum(condensed[i][j] for j in ungrouped), -i))
        members = [j for j in ungrouped if j == main or condensed[main][j]]
        result[main] = members
        ungrouped = [j for j in ungrouped if j not in members]
    return result


def condense(layers: list[Layer], threshold: float) -> list[Layer]:
    """Every hidden layer reduced; all of them judged on the original weights."""
    result = list(layers)
    for index in range(len(layers) - 1):
        original = layers[index]
        vectors = neurons(original)
        found = groups(original, threshold)
        mains = sorted(found)
        current, reader = result[index], result[index + 1]
        norm = current.norm
        if norm is not None:
            scale, shift, mean, variance = norm
            norm = scale[mains], shift[mains], mean[mains], variance[mains]
        bias = None if current.bias is None else current.bias[mains]
        result[index] = replace(current, weight=current.weight[mains], bias=bias, norm=norm)
        columns = reader.weight.reshape(len(reader.weight), len(vectors), -1)
        merged = np.zeros((len(columns), len(mains), columns.shape[2]))
        for place, main in enumerate(mains):
            for j in found[main]:
                share = ratio(vectors[j], vectors[main], original.activation, original.pool) if j != main else 1.0
                merged[:, place] += columns[:, j] * share
        shape = list(reader.weight.shape)
        shape[1] = len(mains) * reader.spatial
        result[index + 1] = replace(reader, weight=merged.reshape(shape))
    return result
