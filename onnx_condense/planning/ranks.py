"""What weights lose as pairs of factors of lower and lower rank, and the pairs that a budget chooses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_condense.arrays import Floats, Ints
from onnx_condense.errors import left_alone
from onnx_condense.factoring.bands import Divided, alike, divided
from onnx_condense.factoring.spectrum import Spectrum, spectrum
from onnx_condense.factoring.tokens import frequencies
from onnx_condense.factoring.weights import OVERHEAD, Factorable
from onnx_condense.goals import Unit
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.twin import Twin
from onnx_condense.model.held import let_go
from onnx_condense.planning.allocation import Curve
from onnx_condense.planning.curves import FELT, LEAST, LEAST_REAL, TRUST, Curves
from onnx_condense.planning.selection import chosen_weights
from onnx_condense.planning.stand import Basis, Stand
from onnx_condense.planning.thresholds import Planner
from onnx_condense.refitting.consumer import Consumer, consumer_of
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.moments import Moments
from onnx_condense.refitting.samples import Calibration

PARTS = (1 / 2, 2 / 3)
"""Of the highest rank of a pair, at which it is tried whether frequent rows should keep more numbers than others."""

CLEAR = 0.9
"""Share of what the outputs lose otherwise that is clearly less: fewer nodes are as good."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """A weight that may become a pair, and how what it reads varies.

    counts: how often [n] the rows of a table are read. seen: what tells how what another weight reads varies, None of
    nothing. differ: whether frequent rows of a table keep more numbers than the others.
    """

    weight: Factorable
    counts: Floats | None
    source: Evidence
    differ: bool = False
    seen: tuple[Consumer, Moments] | None = None

    @property
    def moments(self) -> Floats | None:
        """Second moments [n, n] of what it reads, or of each number alone [n], or how often [n] rows are read.

        None where nothing is known. They are made when they are asked for: all of them at once take much memory.
        """
        return self.counts if self.seen is None else self.seen[0].seconds(self.seen[1])

    def spectrum(self, twin: Twin, known: Divided | None = None) -> Divided:
        """What it loses at each rank in a twin, of what is still there of it.

        A table whose rows differ at the sizes of pairs of these ranks. known: the same of rows that do not.
        """
        rows, columns = self.weight.alive(twin)
        matrix, moments = self.weight.matrix(twin), self.moments
        if not (rows.all() and columns.all()):
            matrix = matrix[np.ix_(rows, columns)]
        if moments is not None and not columns.all():
            moments = moments[columns] if moments.ndim == 1 else moments[np.ix_(columns, columns)]
        found = spectrum(matrix, moments, let_go) if known is None else Spectrum(known.plain[rows], known.lost)
        spent = alike(found)
        if self.differ and moments is not None:
            spent = divided(matrix, moments, found, self.weight.pays(twin), OVERHEAD // matrix.dtype.itemsize)
        if rows.all():
            return spent
        plain, vectors = (np.zeros((len(rows), found.vectors.shape[1])) for _ in range(2))
        plain[rows], vectors[rows] = spent.plain, spent.vectors
        return replace(spent, plain=plain, vectors=vectors)

    def steps(self, twin: Twin, known: Divided) -> Ints:
        """[k] ranks fewer than the full one: the corners of the convex hull of what is lost over what is spared.

        Of a table whose rows differ, the ranks between them, too.
        """
        m, n = self.weight.outputs, self.weight.inputs
        ranks = np.arange(self.weight.pays(twin), 0, -1)
        corners = [(0.0, 0.0, 0)]
        for rank, spared in zip(ranks.tolist(), (m * n - ranks * (m + n)).tolist(), strict=True):
            point = (float(spared), float(known.lost[rank]), self.weight.full - rank)
            while len(corners) > 1 and not _turns(corners[-2], corners[-1], point):
                corners.pop()
            corners.append(point)
        found = np.array([gone for _, _, gone in corners[1:]], dtype=np.int64)
        return np.arange(found[0], found[-1] + 1) if known.differ and len(found) else found


def _turns(one: tuple[float, float, int], two: tuple[float, float, int], three: tuple[float, float, int]) -> bool:
    """Whether the loss rises faster behind the second of three points than before it."""
    return (two[1] - one[1]) * (three[0] - two[0]) < (three[1] - two[1]) * (two[0] - one[0])


@dataclass(frozen=True, eq=False)
class Ranks:
    """The weights that may become pairs under a budget.

    Attributes:
        planner: makes the twins.
        ranked: by their key in allocations, which no group has.
    """

    planner: Planner
    ranked: Mapping[int, Ranked]
    _spectra: dict[int, Divided] = field(default_factory=dict)
    _others: Mapping[int, tuple[Ranked, Divided]] = field(default_factory=dict)

    @staticmethod
    def of(planner: Planner, unit: Unit | None, estimate: Estimate, calibration: Calibration) -> Ranks:
        """Measures how what they read varies. Looking up a row costs nothing: tables stay under a budget of MACs.

        unit: what they are counted in; None where none may become a pair.
        """
        if unit is None:
            return Ranks(planner, {})
        weights = [w for w in chosen_weights(planner.trace, planner.options) if w.pays(planner.original)]
        weights = [] if planner.options.ensure_faster else [w for w in weights if unit is Unit.PARAMS or not w.lookup]
        known = _moments(planner, weights, estimate, calibration)
        first = max((group.index for group in planner.trace.groups), default=-1) + 1
        return Ranks(planner, dict(enumerate(known, first)))

    def counted(self, calibration: Calibration) -> Ranks:
        """The same, where rows of tables count as often as these inputs ask for them."""
        tables = {key: ranked for key, ranked in self.ranked.items() if ranked.weight.lookup}
        found = frequencies(self.planner.trace, [ranked.weight for ranked in tables.values()], calibration)
        again = {key: replace(one, counts=counts) for (key, one), counts in zip(tables.items(), found, strict=True)}
        return Ranks(self.planner, {**self.ranked, **again})

    def spent(self, stand: Stand) -> Ranks:
        """The same, where frequent rows of tables keep more than the others, of those that lose clearly less so."""
        found, spectra, others = dict(self.ranked), dict(self._spectra), dict(self._others)
        for key, one in self.ranked.items():
            if one.weight.lookup and stand.takes(one.weight):
                other, alike = replace(one, differ=True), one.spectrum(self.planner.original)
                differing = other.spectrum(self.planner.original, alike)
                lost, less = (self._tried(one.weight, known, stand) for known in (alike, differing))
                ways = (other, differing), (one, alike)
                (found[key], spectra[key]), others[key] = ways if less < CLEAR * lost else ways[::-1]
        return Ranks(self.planner, found, spectra, others)

    @property
    def undecided(self) -> frozenset[int]:
        """The keys of tables whose frequent rows may keep as much as the others, or more, whatever they do now."""
        return frozenset(self._others)

    def otherwise(self, keys: Collection[int]) -> Ranks:
        """The same where frequent rows of some tables that are undecided do what they do not do now."""
        ranked = {key: self._others[key][0] if key in keys else one for key, one in self.ranked.items()}
        known = {key: self._spectra[key] for key in self._spectra.keys() - keys}
        return Ranks(self.planner, ranked, known | {key: self._others[key][1] for key in keys})

    def _tried(self, weight: Factorable, known: Divided, stand: Stand) -> float:
        """What the outputs lose where nothing but one weight is a pair: the geometric mean of some sizes."""
        most = weight.pays(self.planner.original)
        ranks = sorted({max(1, round(most * part)) for part in PARTS})
        losses = [stand.lost({}, [Basis(weight, *known.at(rank))]) for rank in ranks]
        return float(np.exp(np.mean(np.log(np.maximum(losses, np.finfo(float).tiny)))))

    def layers(self) -> list[int]:
        """The keys of those that are no tables."""
        return [key for key, ranked in self.ranked.items() if not ranked.weight.lookup]

    def tables(self) -> set[int]:
        """The keys of the others, whose ranks save parameters and no time."""
        return self.ranked.keys() - set(self.layers())

    def place(self, key: int) -> tuple[int, int]:
        """Where the weight of a key is."""
        return self.ranked[key].weight.place

    def narrowed(self, stand: Stand) -> list[int]:
        """The keys of those that are narrowed together with groups: tables are too large to be written that often."""
        return [key for key, one in self.ranked.items() if not one.weight.lookup or stand.takes(one.weight)]

    def basis(self, key: int, gone: int) -> Basis:
        """That of a weight with so many ranks fewer."""
        ranked = self.ranked[key]
        return Basis(ranked.weight, *self._known(key).at(ranked.weight.full - gone))

    def _known(self, key: int) -> Divided:
        """That of a weight of the original, which is remembered."""
        if key not in self._spectra:
            self._spectra[key] = self.ranked[key].spectrum(self.planner.original)
        return self._spectra[key]

    def factored(self, twin: Twin, removed: Mapping[int, int], counted: bool = False) -> None:
        """Makes pairs of weights of a twin, where they still become smaller by it.

        removed: key -> ranks that go. counted: nothing but sizes is asked of the twin: any basis will do.
        """
        for key, ranked in self.ranked.items():
            if removed.get(key, 0):
                with left_alone(ranked.weight.layer):
                    self._factor(twin, key, ranked.weight.full - removed[key], counted)

    def _factor(self, twin: Twin, key: int, rank: int, counted: bool) -> None:
        ranked = self.ranked[key]
        if rank <= ranked.weight.pays(twin):
            spent = (np.eye(ranked.weight.outputs, rank), None) if counted else self._of(twin, key).at(rank)
            twin.factor(Basis(ranked.weight, *spent).factor(twin, ranked.source), counted)

    def _of(self, twin: Twin, key: int) -> Divided:
        """What a weight of a twin loses: a table from which nothing has gone loses what it did."""
        weight = self.ranked[key].weight
        same = weight.lookup and weight.place not in twin.changed_places
        whole = same and all(part.all() for part in weight.alive(twin))
        return self._known(key) if whole else self.ranked[key].spectrum(twin)

    def curves(self, stand: Stand, real: bool, note: Callable[[str], None]) -> list[Curves]:
        """What the outputs lose on a stand, in the two readings that groups have."""
        found: list[Curves] = [{}, {}]
        together = self.narrowed(stand) if real else []
        for number, (key, ranked) in enumerate(self.ranked.items(), 1):
            note(f"plan pair {number}/{len(self.ranked)}: {ranked.weight.layer}")
            with left_alone(ranked.weight.layer):
                again = key in together or ranked.weight.lookup
                known = self._known(key) if again else ranked.spectrum(self.planner.original)
                for reading, curve in zip(found, self._curves(ranked, known, stand, real), strict=False):
                    reading[key] = curve
        return found

    def _curves(self, ranked: Ranked, known: Divided, stand: Stand, real: bool) -> list[Curve]:
        steps, full = ranked.steps(self.planner.original, known), ranked.weight.full
        if not len(steps):
            return []
        lost = known.lost[full - np.arange(1, full)] if full > 1 else np.zeros(0)
        slope = max(self._slope(ranked, known, steps, stand), LEAST_REAL if real else LEAST)
        left = full / (full - np.arange(1, full))
        readings = (lost * slope, lost * slope**TRUST * left)
        return [Curve(np.arange(full - 1), np.maximum.accumulate(losses), steps) for losses in readings]

    def _slope(self, ranked: Ranked, known: Divided, steps: Ints, stand: Stand) -> float:
        """Squared relative error of the outputs per share that is lost, where that is felt."""
        for gone in steps[[len(steps) // 2, -1]].tolist():
            rank = ranked.weight.full - gone
            if known.lost[rank] > 0:
                found = self._error(Basis(ranked.weight, *known.at(rank)), ranked.source, stand)
                if found > FELT:
                    return float(found**2 / known.lost[rank])
        return 0.0

    def _error(self, basis: Basis, source: Evidence, stand: Stand) -> float:
        """The relative error of the outputs where nothing but one weight is a pair."""
        if stand.takes(basis.weight):
            return stand.error({}, [basis])
        twin = Twin(self.planner.trace)
        if basis.weight.lookup:  # of a table, rows that are read are enough
            twin.folded[basis.weight.place] = stand.rows_in(basis)
        else:
            twin.factor(basis.factor(twin, source))
        let_go()
        return stand.error_of(twin)


def _moments(
    planner: Planner, weights: Sequence[Factorable], estimate: Estimate, calibration: Calibration
) -> list[Ranked]:
    """What is known of what each weight reads."""
    trace = planner.trace
    tables = [weight for weight in weights if weight.lookup]
    counted = dict(zip([w.place for w in tables], frequencies(trace, tables, calibration), strict=True))
    told = Evidence.CALIBRATION if calibration.samples else Evidence.WEIGHTS
    slots = {w.place: trace.reading(*w.place) for w in weights if not w.lookup}
    readers = {p: consumer_of(trace, slot) for p, slot in slots.items() if slot is not None}
    asked = _each_once({place: one for place, one in readers.items() if one is not None})
    moments = dict(zip(asked, estimate.moments(list(asked.values())), strict=True))
    result = list[Ranked]()
    for weight in weights:
        if weight.lookup:
            result.append(Ranked(weight, counted[weight.place], told))
            continue
        known = moments.get(weight.place)
        seen = None if known is None else (asked[weight.place], known)
        source = Evidence.WEIGHTS if seen is None else estimate.evidence(seen[0])
        result.append(Ranked(weight, None, source, seen=seen))
    return result


def _each_once(readers: Mapping[tuple[int, int], Consumer]) -> dict[tuple[int, int], Consumer]:
    """The same readers, one in the place of all that read the same tensor in the same way."""
    first: dict[object, Consumer] = {}
    return {
        place: one if one.windows is not None else first.setdefault((one.reads, one.features), one)
        for place, one in readers.items()
    }
