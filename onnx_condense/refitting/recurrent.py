"""Recurrent nodes refitted on unrolled states: W and R of the units that are left, from what all of them read.

The rows of the gates that are left get the least squares from what they read in the condensed model, data x(t) and
states h(t-1) together, to what they made in the original one. States follow from the weights: at first those of the
original teach, later those that the node itself makes, as long as it comes closer to the original on its own.
Constants stay: a state begins at zero, and the constant of what went does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats, Ints
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.plan import Refit
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import GateRows
from onnx_condense.operators.answers import Role
from onnx_condense.refitting.comparison import FOLDS, SideBySide
from onnx_condense.refitting.consumer import FEATURES
from onnx_condense.refitting.moments import Moments
from onnx_condense.refitting.refit import EXACT
from onnx_condense.refitting.samples import Calibration, Shard
from onnx_condense.refitting.unrolled import Cell, Steps, Unrolled, Weights

ROWS = 2**14
"""Most steps of samples that are summed."""

WORK = 2**33
"""About so many multiplications for the sums of a node; steps are drawn beyond it."""

STRENGTHS = (1.0, 0.1, 1e-2, 1e-3)
"""Ridge strengths that are tried each time, as shares of the mean square of the features."""

ROUNDS = 5
"""Most times that weights are fitted; the first time the states of the original teach."""

PAYS = 0.99
"""A round that leaves more than this share of what held-back samples lose is the last."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of gates in one direction that read the same.

    rows: [r] of W and R there. data: [i] channels that they read. units: [k] that they read.
    """

    direction: int
    gates: GateRows
    rows: Ints
    data: Ints
    units: Ints

    def matrix(self, weights: Weights, data: Ints, units: Ints) -> Floats:
        """[r, i + k] of W and R, what these channels [i] and units [k] are multiplied with."""
        w, r = (weights[position][self.direction][self.rows].astype(np.float64) for position in (1, 2))
        return np.hstack([w[:, data], r[:, units]])

    def put(self, weights: Weights, matrix: Floats) -> None:
        """Writes a matrix [r, i + k] of what is read into W and R."""
        data, units = np.split(matrix, [len(self.data)], axis=1)
        for position, places, values in ((1, self.data, data), (2, self.units, units)):
            weights[position][self.direction][np.ix_(self.rows, places)] = values

    def states(self, steps: Steps, data: Array, states: Array, weights: Weights) -> Array:
        """[steps, samples, units] the states [steps, directions, samples, units] as the rows read them."""
        before = steps.before(states, self.direction)
        return before if self.gates.reset is None else before * self._scale(steps.cell, data, before, weights)

    def _scale(self, cell: Cell, data: Array, before: Array, weights: Weights) -> Array:
        """[steps, samples, units] the gate that scales the state."""
        assert self.gates.reset is not None
        n = cell.units
        rows = slice(self.gates.reset * n, (self.gates.reset + 1) * n)
        w, r = (weights[position][self.direction][rows] for position in (1, 2))
        made = data @ w.T + before @ r.T
        if cell.action.bias is not None:
            bias = cell.original[cell.action.bias][self.direction].reshape(2, -1).sum(0)
            made = made + bias[rows]
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * made))


@dataclass(frozen=True, eq=False)
class Normal:
    """Sums of xxᵀ [f, f] and zxᵀ [g, f] of features x as they are read now, and z as the original reads them."""

    xx: Floats
    zx: Floats

    @staticmethod
    def joined(parts: Sequence[Normal]) -> Normal:
        """The sums of all samples of several parts."""
        return Normal(np.sum([p.xx for p in parts], 0), np.sum([p.zx for p in parts], 0))

    def fitted(self, prior: Floats, through: Floats, strength: float) -> Floats:
        """[r, f] the weight toward a prior [r, f] whose targets are a weight [r, g] times z."""
        f, r = len(self.xx), len(prior)
        moments = Moments(np.zeros(f), np.zeros(r), self.xx, through @ self.zx, np.zeros((1, 1)))
        return moments.ridge(prior, strength)


@dataclass(frozen=True, eq=False)
class Teaching:
    """Sums, over a shard, for each part of a node, but for the samples that are held back.

    weights: what the node has by now, whose states are read; None where those of the original are.
    most: steps that are taken per sample.
    """

    unrolled: Unrolled
    parts: tuple[Part, ...]
    weights: Weights | None
    most: int
    seed: int

    def __call__(self, shard: Shard) -> list[Normal] | None:
        """None where there are no samples of it."""
        total: list[Normal] | None = None
        for whole, active in self.unrolled(shard):
            steps = whole.of_samples(np.flatnonzero(whole.numbers % FOLDS < FOLDS - 1))
            if not len(steps.numbers):
                continue
            states = steps.states if self.weights is None else steps.by(self.weights, active)
            found = [self._sums(part, steps, states) for part in self.parts]
            total = found if total is None else [Normal.joined(pair) for pair in zip(total, found, strict=True)]
        return total

    def _sums(self, part: Part, steps: Steps, states: Array) -> Normal:
        cell, drawn = steps.cell, self._drawn(steps)
        data = steps.fed[cell.action.data]
        before = part.states(steps, data, steps.states, cell.original)
        after = before if self.weights is None else part.states(steps, steps.data, states, self.weights)
        x = _lines(drawn, steps.data[..., part.data], after[..., part.units])
        z = _lines(drawn, data[..., : data.shape[-1] * part.gates.data], before[..., : cell.units * part.gates.state])
        return Normal(x.T @ x, z.T @ x)

    def _drawn(self, steps: Steps) -> tuple[Ints, Ints]:
        """(steps, samples) [n] each: drawn for each sample by its number."""
        length = len(steps.data)
        taken = min(length, self.most)
        draws = [np.random.default_rng([self.seed, n]).permutation(length)[:taken] for n in steps.numbers]
        return np.concatenate(draws), np.repeat(np.arange(len(draws)), taken)


def _lines(drawn: tuple[Ints, Ints], data: Array, states: Array) -> Floats:
    """[n, channels + units] of the steps and samples that are drawn."""
    return np.hstack([data[drawn], states[drawn]]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Trying:
    """What the states by several weights miss, over the samples of a shard that are held back.

    alive: [directions, units] the units that count.
    """

    unrolled: Unrolled
    alive: Bools
    candidates: Sequence[Weights]

    def __call__(self, shard: Shard) -> Floats:
        """[candidates + 1] sums of squares: of what each misses, and of the states."""
        total = np.zeros(len(self.candidates) + 1)
        for whole, active in self.unrolled(shard):
            steps = whole.of_samples(np.flatnonzero(whole.numbers % FOLDS == FOLDS - 1))
            if not len(steps.numbers):
                continue
            wanted = self._counted(steps.states)
            missed = [self._counted(steps.by(weights, active)) - wanted for weights in self.candidates]
            total += [float(np.sum(values.astype(np.float64) ** 2)) for values in (*missed, wanted)]
        return total

    def _counted(self, states: Array) -> Array:
        return np.moveaxis(states, 2, 0)[:, :, self.alive]


@dataclass(frozen=True, eq=False)
class TwinCell:
    """A recurrent node in a twin. fixed: what the graph alone says of it."""

    fixed: Cell
    twin: Twin

    @property
    def node(self) -> int:
        """The index of the node."""
        return self.fixed.node

    @cached_property
    def alive(self) -> Bools:
        """[directions, units] which of its units are still there."""
        slot = self.twin.trace.reading(self.fixed.node, 2)
        assert slot is not None
        return self.twin.reads(slot).reshape(-1, self.fixed.units)

    @cached_property
    def reads(self) -> Bools:
        """[channels] which of its data are still there."""
        slot = self.twin.trace.reading(self.fixed.node, 1)
        assert slot is not None
        return self.twin.reads(slot)

    def weights(self) -> dict[int, Array]:
        """Its weights as the twin holds them, of the original shapes; W and R as copies."""
        node = self.fixed.node
        return {n: self.twin.weight(node, n).copy() if n in (1, 2) else v for n, v in self.fixed.original.items()}

    def parts(self) -> tuple[Part, ...]:
        """The rows that are left, by what they read."""
        nothing, data, n = np.zeros(0, dtype=np.int64), np.flatnonzero(self.reads), self.fixed.units
        found = []
        for direction, line in enumerate(self.alive):
            units = np.flatnonzero(line)
            for gates in self.fixed.action.gate_rows:
                rows = np.concatenate([gate * n + units for gate in gates.gates])
                read = data if gates.data else nothing, units if gates.state else nothing
                found.append(Part(direction, gates, rows, *read))
        return tuple(found)

    def refit(self, weights: Weights, evidence: Evidence) -> None:
        """Gives it W and R [directions, gates · units, ...] of the original shapes in the twin."""
        kept = [np.flatnonzero(self.reads), np.flatnonzero(self.alive[0])]
        for position, places in zip((1, 2), kept, strict=True):
            weight = weights[position]
            if position == 1 or len(self.alive) == 1:
                weight = weight.take(places, 2)
            if np.isfinite(weight).all():
                self.twin.refit(Refit(self.fixed.node, position, self.fixed.layer, evidence, weight, np.zeros(0)))


def narrowed(twin: Twin) -> list[TwinCell]:
    """The recurrent nodes that lost units or data, in graph order."""
    found = list[TwinCell]()
    for index, action in twin.trace.actions.items():
        slots = [s for s in twin.trace.slots_at(index) if action.recurrent and s.role is Role.CONTRACTED]
        if all(twin.reads(slot).all() for slot in slots) or twin.trace.reading(index, 2) is None:
            continue
        cell = Cell.of(twin.trace, index)
        if cell is not None and sum(weight.shape[2] for weight in (cell.original[1], cell.original[2])) <= FEATURES:
            found.append(TwinCell(cell, twin))
    return found


@dataclass(frozen=True, eq=False)
class Refitting:
    """How a recurrent node gets other weights."""

    cell: TwinCell
    unrolled: Unrolled
    calibration: Calibration
    seed: int

    def weights(self) -> Weights | None:
        """W and R by which its states come closer to the original's on held-back samples; None where none do."""
        found, loss = None, np.inf
        current = self.cell.weights()
        for number in range(ROUNDS):
            sums = self._sums(None if number == 0 else current)
            if sums is None:
                return None
            candidates = [self._fitted(current, sums, strength) for strength in STRENGTHS]
            tried = [current, *candidates] if number == 0 else candidates
            losses = self._losses(tried)
            if number == 0:
                loss = losses[0]
                if not loss > EXACT:
                    return None
                losses = losses[1:]
            best = int(np.argmin(losses))
            current, paid = candidates[best], losses[best] < PAYS * loss
            if losses[best] < loss:
                found, loss = current, losses[best]
            if number and not paid:
                break
        return found

    def _sums(self, weights: Weights | None) -> list[Normal] | None:
        parts, samples = self.cell.parts(), self.calibration.samples
        features = max(len(part.data) + len(part.units) for part in parts)
        rows = min(ROWS, max(2 * features, WORK // (2 * features**2)))
        job = Teaching(self.unrolled, parts, weights, max(1, rows // samples), self.seed)
        known = [found for found in self.calibration.each(job) if found is not None]
        total = [Normal.joined(found) for found in zip(*known, strict=True)]
        return (
            total
            if total and all(np.isfinite(sums.xx).all() and np.isfinite(sums.zx).all() for sums in total)
            else None
        )

    def _fitted(self, weights: Weights, sums: Sequence[Normal], strength: float) -> dict[int, Array]:
        """W and R that a strength gives all parts."""
        result = {n: value.copy() if n in (1, 2) else value for n, value in weights.items()}
        original = self.cell.fixed.original
        for part, known in zip(self.cell.parts(), sums, strict=True):
            data, units = (
                np.arange(original[n].shape[2] * wanted) for n, wanted in ((1, part.gates.data), (2, part.gates.state))
            )
            through = part.matrix(original, data, units)
            part.put(result, known.fitted(part.matrix(weights, part.data, part.units), through, strength))
        return result

    def _losses(self, candidates: Sequence[Weights]) -> Floats:
        """[candidates] the share of the states' squares that each misses; infinity where it is no number."""
        total = np.asarray(sum(self.calibration.each(Trying(self.unrolled, self.cell.alive, candidates))))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = total[:-1] / total[-1]
        return np.where(np.isfinite(shares), shares, np.inf)


def refit_states(cell: TwinCell, sides: SideBySide, calibration: Calibration, seed: int) -> None:
    """Gives a recurrent node of a twin the W and R by which its states are closest to the original's."""
    fixed = cell.fixed
    before, after = sides.reach(list(fixed.data.values()), [fixed.data[fixed.action.data]])
    weights = Refitting(cell, Unrolled(fixed, before, after, cell.reads), calibration, seed).weights()
    if weights is not None:
        cell.refit(weights, Evidence.CALIBRATION)
