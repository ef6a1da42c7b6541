"""Data-free baselines for compare_accuracy.py, on the package's own groups and rewriter: any model that it traces.

Each method narrows dependency groups to given widths (`_network.Widths`), which the caller chooses. All three judge the
original weights and ask for no data:

* `delete`: the channels whose weights have the smallest L1 norm go (Li et al., Pruning Filters for Efficient ConvNets,
  2017). Norms of all layers that make the channels are added.
* `merge_neurons`: the same channels go, and every one of them is what the most alike channel that stays is, times a
  scale (Kim et al., Neuron Merging, 2020, with the constants that its authors use for ResNet-56).
* `fold`: k-means clusters of channels become their centres, and BatchNormalization is repaired for what averaging does
  to the variance (Wang et al., Forget the Data and Fine-Tuning! Just Fold the Network to Compress, 2025; "Fold-AR").
"""

from __future__ import annotations

import warnings

import numpy as np
from _network import Network, Widths, plan, shares
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.cluster.vq import kmeans2

from onnx_condense.algebra.directions import approximate
from onnx_condense.arrays import Floats, Ints
from onnx_condense.merging.judging import judge
from onnx_condense.merging.methods import MANNERS, stages
from onnx_condense.merging.paths import by_channel, from_channels, paths
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import Contraction, Filter, Normalization
from onnx_condense.options import Depthwise
from onnx_condense.options import Method as Merging
from onnx_condense.tracing.labels import atoms_of, occurrence
from onnx_condense.tracing.trace import Group, Slot, Trace

THRESHOLD = 0.1
"""Neuron merging: a channel whose cosine to every other is below it is deleted (the authors' script for ResNet-56)."""

COSINE = 0.85
"""Neuron merging: weight of the cosine distance against the bias distance (lambda in the authors' script)."""

ITERATIONS = 20
"""Of k-means."""

# ---------------------------------------------------------------------------------------------------- by norm


def _norms(twin: Twin, group: Group) -> Floats:
    """[n] L1 norms of what makes the channels, added over layers."""
    total = np.zeros(len(group.units))
    for slot in twin.trace.slots_of(group):
        if slot.role == "produced":
            units, slices = _slices(twin, group, slot)
            np.add.at(total, units[units >= 0], np.abs(slices[units >= 0]).sum(1))
    return total


def _largest(twin: Twin, group: Group, width: int) -> Ints:
    """[n] each of the channels with the largest norms, -1 for the others."""
    norms, main = _norms(twin, group), np.full(len(group.units), -1)
    for cell, count in shares(group, width):
        stays = cell[np.argsort(-norms[cell], kind="stable")[:count]]
        main[stays] = stays
    return main


def delete(network: Network, widths: Widths) -> Twin:
    """Keeps the channels of the largest L1 norms."""
    original, twin = Twin(network.opened.trace), Twin(network.opened.trace)
    for group in network.groups:
        if group.index in widths:
            twin.apply(group, plan(twin, group, _largest(original, group, widths[group.index]), {}))
    return twin


def merge_neurons(network: Network, widths: Widths) -> Twin:
    """Keeps the same channels as `delete`, and approximates the others by them.

    A channel w, BatchNormalization folded in, is taken for s · v of the channel v that stays with the least
    lambda · (1 - cos(w, v)) + (1 - lambda) · |b_w - s · b_v| / s, the second term scaled to [0, 1] over all v, with
    s = |w| / |v|; s is the paper's (gamma_w / gamma_v) (sigma_v / sigma_w) |w| / |v|. Of several stages (depthwise) the
    least cosine counts, scales are multiplied and bias distances added.
    """
    trace = network.opened.trace
    original, twin = Twin(trace), Twin(trace)
    for group in network.groups:
        if group.index not in widths:
            continue
        main = _largest(original, group, widths[group.index])
        judgement = judge(original, group, MANNERS[Merging.RATIO])
        scales: dict[int, tuple[Floats, Floats]] = {}
        for cell, evaluator in zip(judgement.members, judgement.numbers, strict=True):
            goes, stays = np.flatnonzero(main[cell] < 0), np.flatnonzero(main[cell] >= 0)
            signals = {p.signal for p in judgement.paths if np.isin(cell[:1], p.units).all()}
            if not len(goes) or not signals:
                continue
            cosine, apart = np.ones((len(goes), len(stays))), np.zeros((len(goes), len(stays)))
            products = {}
            for signal in sorted(signals):
                products[signal] = np.ones_like(cosine)
                for factor in stages(evaluator, trace.signals[signal], Depthwise.JOINT):
                    length = np.maximum(np.linalg.norm(factor.vectors.array(), axis=1), np.finfo(float).tiny)
                    unit = factor.vectors.array() / length[:, None]
                    ratio = np.maximum(length[goes, None] / length[None, stays], np.finfo(np.float32).tiny)
                    cosine = np.minimum(cosine, unit[goes] @ unit[stays].T)
                    shift = factor.bias[goes, None] - ratio[..., None] * factor.bias[None, stays]
                    apart += np.abs(shift).sum(-1) / ratio
                    products[signal] *= ratio
            span = np.ptp(apart, axis=1, keepdims=True)
            distance = (apart - apart.min(1, keepdims=True)) / np.where(span == 0, 1, span)
            near = np.argmin(COSINE * (1 - cosine) + (1 - COSINE) * distance, axis=1)
            rows = np.arange(len(goes))
            merged = cosine[rows, near] >= THRESHOLD
            main[cell[goes[merged]]] = cell[stays[near[merged]]]
            for signal, product in products.items():
                ratio, constant = scales.setdefault(signal, ((main >= 0).astype(float), np.zeros(len(main))))
                found = approximate(trace.signals[signal], evaluator, product[rows, near], goes, stays[near])
                ratio[cell[goes]], constant[cell[goes]] = (np.where(merged, part, 0.0) for part in found)
        twin.apply(group, plan(twin, group, main, scales))
    return twin


# ---------------------------------------------------------------------------------------------------- folding


def fold(network: Network, widths: Widths) -> Twin:
    """K-means clusters of channels become their centres.

    What makes and carries the channels of a cluster is averaged, what reads them is added up. Before, the division by
    the deviation and the mean become part of the weights. Averaging N pre-activations of unit variance whose
    correlation is c on average leaves the variance (1 + (N - 1) c) / N: gamma is divided by its root ("Fold-AR"), with
    c from the cosines of the weight rows. Where no BatchNormalization follows, the weights themselves are.
    Clustered are all numbers that make, carry and read a channel, robustly scaled, as in the authors' code.
    """
    trace = network.opened.trace
    twin = Twin(trace)
    gains = _normalize(twin)
    chosen = []
    for group in network.groups:
        if group.index in widths:
            vectors = _vectors(twin, group)
            labels = np.zeros(len(group.units), dtype=np.int64)
            for cell, count in shares(group, widths[group.index]):
                labels[cell] = labels.max() + 1 + clusters(vectors[cell], count)
            chosen.append(
                (group, labels, {s.node: _correlation(twin, group, s, labels) for s in _makers(trace, group)})
            )
    for group, labels, correlations in chosen:
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        ones = np.ones(len(labels)), np.zeros(len(labels))
        signals = {path.signal: ones for path in paths(trace, group)}
        twin.apply(group, plan(twin, group, first[inverse], signals))
        count = np.bincount(inverse)
        for slot in trace.slots_of(group):
            if slot.role == "contracted":
                continue
            scale = np.ones(len(labels))
            maker = gains.get((slot.node, slot.input))
            if maker in correlations:
                scale = np.sqrt(count / np.maximum(1 + (count - 1) * correlations[maker], 1e-3))[inverse]
            _average(twin, group, slot, inverse, scale)
    return twin


def clusters(vectors: Floats, count: int) -> Ints:
    """[n] cluster numbers below `count`, every one of them taken: k-means that starts from Ward's clusters.

    On the layers of real networks random starts (k-means++) did not get tighter clusters.
    """
    if len(vectors) == 1:
        return np.zeros(1, dtype=np.int64)
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    vectors = left * sizes  # the same distances in fewer dimensions
    ward = fcluster(linkage(vectors, "ward"), count, "maxclust") - 1
    if len(np.unique(ward)) < count:  # ties: equal channels in clusters of their own cost nothing
        ward = np.argsort(np.argsort(ward, kind="stable"), kind="stable") * count // len(vectors)
    centres = np.stack([vectors[ward == label].mean(0) for label in range(count)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters that run empty: then Ward's stay
        _, labels = kmeans2(vectors, centres, iter=ITERATIONS, minit="matrix", missing="warn")
    return np.asarray(labels if len(np.unique(labels)) == count else ward, dtype=np.int64)


def _makers(trace: Trace, group: Group) -> list[Slot]:
    """The weights that make a group's channels, depthwise kernels too."""
    found = [s for s in trace.slots_of(group) if s.role != "contracted"]
    return [s for s in found if s.role == "produced" or (isinstance(trace.actions[s.node], Filter) and s.input == 1)]


def _normalize(twin: Twin) -> dict[tuple[int, int], int]:
    """Makes what BatchNormalization divides by and subtracts part of the layer before, in place, and the variance 1.

    Returns where the gain of each layer is: (node, input) of gamma, or of the layer's own weight -> the layer's node.
    """
    trace = twin.trace
    gains = {}
    for index, action in trace.actions.items():
        if not isinstance(action, Contraction | Filter):
            continue
        position = action.weight if isinstance(action, Contraction) else 1
        node = trace.facts.nodes[index]
        if trace.facts.value(node.inputs[position]) is None:
            continue
        gains[index, position] = index
        uses = trace.facts.consumers(node.outputs[0].name)
        after = trace.actions.get(uses[0][0]) if len(uses) == 1 else None
        if not isinstance(after, Normalization) or after.var is None or after.mean is None or node.op != "Conv":
            continue
        norm = uses[0][0]
        deviation = np.sqrt(twin.weight(norm, after.var).astype(np.float64) + after.epsilon)
        for place in (position, 2):
            if place < len(node.inputs) and node.inputs[place].name:
                weight = twin.weight(index, place)
                scaled = weight / deviation.reshape(-1, *[1] * (weight.ndim - 1))
                twin.folded[index, place] = scaled.astype(weight.dtype)
        mean = twin.weight(norm, after.mean)
        twin.folded[norm, after.mean] = (mean / deviation).astype(mean.dtype)
        twin.folded[norm, after.var] = np.full_like(mean, 1 - after.epsilon)
        del gains[index, position]
        gains[norm, after.scale] = index
    return gains


def _slices(twin: Twin, group: Group, slot: Slot) -> tuple[Ints, Floats]:
    """Of a weight: the group's channel at each place (-1: another's), and [places, p] what belongs to it."""
    index = np.full(len(twin.trace.unit_of) + 1, -1, dtype=np.int64)
    index[group.units] = np.arange(len(group.units))
    atoms = atoms_of(slot.labels.reshape(-1))
    units = index[np.where(atoms >= 0, twin.trace.unit_of[atoms], len(index) - 1)]
    slices = by_channel(twin.weight(slot.node, slot.input), slot.axes, slot.groups)
    return units, slices.reshape(len(slices), -1).astype(np.float64)


def _of_channels(units: Ints, slices: Floats, n: int) -> Floats:
    """[n, k · p]: the slices of each channel side by side; zeros where it has fewer."""
    inside = np.flatnonzero(units >= 0)
    rank = occurrence(units[inside])
    result = np.zeros((n, int(rank.max(initial=-1)) + 1, slices.shape[1]))
    result[units[inside], rank] = slices[inside]
    return result.reshape(n, -1)


def _vectors(twin: Twin, group: Group) -> Floats:
    """[n, p]: everything that makes, carries and reads each channel, each number over its interquartile range."""
    n = len(group.units)
    whole = np.hstack([_of_channels(*_slices(twin, group, slot), n) for slot in twin.trace.slots_of(group)])
    low, middle, high = np.percentile(whole, [25, 50, 75], axis=0)
    return np.asarray((whole - middle) / np.where(high == low, 1, high - low))


def _correlation(twin: Twin, group: Group, slot: Slot, labels: Ints) -> Floats:
    """Per cluster: the mean cosine of two of its rows; 1 for one alone."""
    rows = _of_channels(*_slices(twin, group, slot), len(group.units))
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)
    result = []
    for label in np.unique(labels):
        members = unit[labels == label]
        pairs = len(members) * (len(members) - 1)
        result.append((np.square(members.sum(0)).sum() - np.square(members).sum()) / pairs if pairs else 1.0)
    return np.array(result)


def _average(twin: Twin, group: Group, slot: Slot, labels: Ints, scale: Floats) -> None:
    """Gives every channel the mean of its cluster's slices, times a scale [n]."""
    weight = twin.weight(slot.node, slot.input)
    slices = by_channel(weight, slot.axes, slot.groups)
    result = slices.astype(np.float64)
    units, _ = _slices(twin, group, slot)
    inside = np.flatnonzero(units >= 0)
    rank = occurrence(units[inside])
    for turn in np.unique(rank):
        places = inside[rank == turn]
        mine = labels[units[places]]
        total = np.zeros((labels.max() + 1, *slices.shape[1:]))
        np.add.at(total, mine, result[places])
        count = np.bincount(mine, minlength=len(total)).reshape(-1, *[1] * (slices.ndim - 1))
        mean = (total / np.maximum(count, 1))[mine]
        result[places] = mean * scale[units[places]].reshape(-1, *[1] * (slices.ndim - 1))
    twin.folded[slot.node, slot.input] = from_channels(result, slot.axes, weight.shape, slot.groups).astype(
        weight.dtype
    )
