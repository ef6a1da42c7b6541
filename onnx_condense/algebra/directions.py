"""Which vectors must point the same way for two channels to condense, and what one is then of the other."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import numpy as np

from onnx_condense.algebra.numbers import Numbers, below
from onnx_condense.algebra.operations import OPERATIONS
from onnx_condense.algebra.signals import (
    Activated,
    Affine,
    Centred,
    Combined,
    Filtered,
    Mapped,
    Modulated,
    Pooled,
    Recurrence,
    Restricted,
    Rows,
    Shared,
    Signal,
)
from onnx_condense.algebra.stages import Rule, Stage, activate
from onnx_condense.algebra.vectors import Vectors
from onnx_condense.arrays import Floats, Ints
from onnx_condense.operators.answers import Kind


def stages_of(signal: Signal, numbers: Numbers) -> list[Stage]:
    """The stages whose vectors are judged, before `final_rules`."""
    return numbers.once(_stages_of, signal)


@singledispatch
def _stages_of(signal: Signal, numbers: Numbers) -> list[Stage]:
    raise TypeError(type(signal))


@_stages_of.register(Rows)
def _(signal: Rows, numbers: Numbers) -> list[Stage]:
    rows, bias = numbers.leaf(signal)
    folds = numbers.weights.convolves(signal.node)
    return [Stage(Vectors.of(rows), bias, frozenset({id(signal)}), folds=folds)]


@_stages_of.register(Recurrence)
def _(signal: Recurrence, numbers: Numbers) -> list[Stage]:
    gates, candidates = numbers.gates(signal)
    none = np.zeros((len(gates), 1))
    candidate = activate([Stage(Vectors.of(candidates), none, frozenset({id(signal)}))], signal.kind)
    if not gates.shape[1]:
        return candidate
    leaves = frozenset({hash((id(signal), "gates"))})
    return [Stage(Vectors.of(gates), none, leaves, Rule.EQUAL, bent=True, open=False), *candidate]


@_stages_of.register(Shared)
def _(signal: Shared, numbers: Numbers) -> list[Stage]:
    n = len(numbers.units)
    return [Stage(Vectors.of(np.ones((n, 1))), np.zeros((n, 1)), frozenset({id(signal)}))]


@_stages_of.register(Restricted)
def _(signal: Restricted, numbers: Numbers) -> list[Stage]:
    inner = stages_of(signal.child, numbers.restricted(signal))
    return [replace(f, leaves=frozenset({hash((f.leaves, id(signal)))})) for f in inner]


@_stages_of.register(Affine)
def _(signal: Affine, numbers: Numbers) -> list[Stage]:
    found = stages_of(signal.child, numbers)
    scale, shift, _ = numbers.parameters(signal)
    if found and found[-1].open:
        last, used = found[-1], np.flatnonzero(scale.any(axis=0))
        places = used if len(used) else [0]  # places of constants add nothing
        vectors = last.vectors.scaled(scale[:, places])
        added = shift * 0 if _is_apart(signal, numbers) else shift
        folds = last.folds or signal.stated is not None
        return [*found[:-1], replace(last, vectors=vectors, bias=_moved(last.bias, scale, added), folds=folds)]
    if np.ptp(scale, axis=0).max(initial=0) == 0 and np.ptp(shift, axis=0).max(initial=0) == 0:
        return found
    prefix = tuple(f.leaves for f in found)
    return [*found, Stage(Vectors.of(scale), shift, frozenset({id(signal)}), virtual=True, prefix=prefix)]


@_stages_of.register(Filtered)
def _(signal: Filtered, numbers: Numbers) -> list[Stage]:
    before = [replace(f, open=False) if f.open else f for f in stages_of(signal.child, numbers) if not f.virtual]
    prefix = tuple(f.leaves for f in before)
    taps, bias = numbers.kernels(signal)
    return [*before, Stage(Vectors.of(taps), bias, frozenset({id(signal)}), taps=True, folds=True, prefix=prefix)]


@_stages_of.register(Activated)
def _(signal: Activated, numbers: Numbers) -> list[Stage]:
    found = activate(stages_of(signal.child, numbers), signal.action.kind)
    if signal.slope is None or np.ptp(numbers.slopes(signal)) == 0:
        return found
    rows = np.hstack([np.ones((len(numbers.units), 1)), numbers.slopes(signal)])
    slopes = Stage(Vectors.of(rows), np.zeros((len(rows), 1)), frozenset({id(signal)}), Rule.EQUAL, open=False)
    return [*found, slopes]


@_stages_of.register(Centred)
def _(signal: Centred, numbers: Numbers) -> list[Stage]:
    found = [replace(f, bias=f.bias * 0) if f.open else f for f in stages_of(signal.child, numbers)]
    return activate(found, Kind.BOUNDED)


@_stages_of.register(Pooled)
def _(signal: Pooled, numbers: Numbers) -> list[Stage]:
    found = stages_of(signal.child, numbers)
    return found if signal.linear else activate(found, Kind.HOMOGENEOUS)


@_stages_of.register(Mapped)
@_stages_of.register(Modulated)
def _(signal: Mapped | Modulated, numbers: Numbers) -> list[Stage]:
    return stages_of(signal.child, numbers)


@_stages_of.register(Combined)
def _(signal: Combined, numbers: Numbers) -> list[Stage]:
    left, right = stages_of(signal.left, numbers), stages_of(signal.right, numbers)
    return OPERATIONS[signal.operation].stages(left, right)


def passes_constants(signal: Signal, numbers: Numbers) -> bool:
    """Whether a constant that two channels differ by may pass the whole path (linear steps and maxima)."""
    return numbers.once(_passes_constants, signal)


def _passes_constants(signal: Signal, numbers: Numbers) -> bool:
    match signal:
        case Rows() | Shared():
            return True
        case Combined(operation):
            passes = OPERATIONS[operation].passes_constants
        case Activated(action=action):
            passes = action.kind is Kind.LINEAR
        case Filtered(padded=padded):
            passes = not padded
        case Pooled() | Restricted() | Affine() | Mapped() | Modulated() | Centred():
            passes = True
        case _:
            return False
    return passes and all(passes_constants(child, inner) for inner, child in below(numbers, signal))


def approximate(signal: Signal, numbers: Numbers, ratio: Floats, j: Ints, m: Ints) -> tuple[Floats, Floats]:
    """([k], [k]): ratios and constants of pairs of channels on a path, with the affines behind its stages.

    ratio: [k] the product of the ratios of the stages. j, m: [k] the channels.
    """
    steps: list[tuple[Numbers, Signal]] = []
    while _leads_on(signal, numbers):
        steps.append((numbers, signal))
        ((numbers, signal),) = below(numbers, signal)
    constant = np.zeros_like(ratio)
    if isinstance(signal, Affine) and _is_apart(signal, numbers):
        _, added, _ = numbers.parameters(signal)
        constant = added[j].mean(1) - ratio * added[m].mean(1)
    for inner, step in reversed(steps):
        match step:
            case Affine():
                scale, shift, _ = (p.mean(1) for p in inner.parameters(step))
                outer = scale[j] * ratio / np.where(scale[m] == 0, 1, scale[m])
                ratio, constant = outer, scale[j] * constant + shift[j] - outer * shift[m]
            case Mapped() | Modulated() | Pooled(scale_free=False):
                constant = np.zeros_like(constant)
    return ratio, constant


def _leads_on(signal: Signal, numbers: Numbers) -> bool:
    """Whether the ratio of a signal follows from that of the one below."""
    match signal:
        case Affine():
            return not _absorbs(signal, numbers)
        case Restricted() | Pooled() | Mapped() | Modulated():
            return True
    return False


def _is_apart(signal: Affine, numbers: Numbers) -> bool:
    """Whether what an affine adds is no part of the vector."""
    return numbers.apart and signal.stated is not None


def _absorbs(signal: Affine, numbers: Numbers) -> bool:
    """Whether an affine is part of the neuron vector: nothing but linear steps came before it."""
    found = stages_of(signal.child, numbers)
    return bool(found) and found[-1].open and not found[-1].virtual


def _moved(bias: Floats, scale: Floats, shift: Floats) -> Floats:
    """A bias [n, q] behind an affine; side by side where both vary in space, along axes of their own."""
    scaled = bias * scale.mean(1, keepdims=True)
    return scaled + shift if 1 in (bias.shape[1], shift.shape[1]) else np.hstack([scaled, shift])
