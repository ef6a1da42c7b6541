"""Where choices of widths are tried: the original, whose consumers' weights are fed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.errors import InputError
from onnx_condense.factoring.tokens import rows_read
from onnx_condense.factoring.weights import Factorable
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.factors import Bands, Factor, ranks_of
from onnx_condense.merging.mixing import Blend
from onnx_condense.merging.paths import paths
from onnx_condense.merging.twin import Turn, Twin
from onnx_condense.model import wire
from onnx_condense.model.apart import APART_FROM
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.outputs import batch_in
from onnx_condense.planning.planned import NOTHING
from onnx_condense.planning.stretches import STRETCHES, Choice, Fed, Place, Stretches, divided
from onnx_condense.planning.thresholds import Planner, costing
from onnx_condense.proving.compare import Results, Varying, compare, results
from onnx_condense.proving.losses import lost, scores_in
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.refit import refit_by
from onnx_condense.refitting.synthetic import unbatched
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.rewriting.writer import write

RECENT = 2
"""Choices that are remembered of each group: where it is, and where it may go next."""

KEPT = 2**26
"""Bytes of what a choice gives consumers up to which it is remembered."""


SMALL = 2**16
"""Bytes of outputs up to which they are remembered: the first step of a group has often been a probe of it."""

NOTHING_GONE = Choice({}, {})


@dataclass(frozen=True, eq=False)
class Basis:
    """A weight whose outputs [m] lie in a basis [m, r]; of a table perhaps only frequent rows in all of it."""

    weight: Factorable
    vectors: Floats
    bands: Bands | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """What tells bases of one weight apart."""
        return ranks_of(self.vectors, self.bands)

    def within(self, value: Array, rows: Ints | None) -> Array:
        """What is left of a value of the weight; of a table, of rows [k] that alone are asked for."""
        if rows is None:
            return self.weight.within(self.vectors, value)
        return self.weight.rows_within(self.vectors, self.bands, value, rows)

    def factor(self, twin: Twin, source: Evidence | None) -> Factor:
        """The pair of factors that it is in a twin."""
        return self.weight.factor(twin, self.vectors, source, self.bands)


class Stand:
    """Says what the outputs lose as groups are narrowed, without a model being written for each choice.

    Where the model cannot be fed its weights (it is very large, or they lie in bodies), one is written after all.

    Attributes:
        aside: groups that could not be narrowed when that was tried.
    """

    def __init__(
        self,
        planner: Planner,
        estimate: Estimate,
        feeds: Sequence[Feed],
        pairs: Sequence[Factorable] = (),
        made_up: bool = False,
    ) -> None:
        """`estimate`: by its moments consumers are refitted. pairs: weights that may become pairs of factors.

        made_up: whether errors are of what differs between samples alone: made-up ones look alike to a network.
        """
        self._planner, self._estimate, self._made_up = planner, estimate, made_up
        self._known: dict[int, dict[int, Choice]] = {}
        self._fits = set[int]()  # groups of which some width has shapes, and will be checked again if it is taken
        self._by_index = {group.index: group for group in planner.groups}
        self.aside = NOTHING
        self._fed = _fed(planner, feeds, pairs)
        self._expect(feeds)

    def on(self, feeds: Sequence[Feed]) -> Stand:
        """The same on other inputs."""
        other = copy(self)
        other._expect(feeds)
        return other

    def _expect(self, feeds: Sequence[Feed]) -> None:
        """Notes what the original makes of these inputs."""
        self._feeds = feeds
        self._rows: dict[Place, Ints | None] = {}
        self._seen: dict[frozenset[tuple[int, bytes]], Results] = {}
        self._expected = self._outputs(self._planner.original)
        self._varying = Varying(self._expected) if self._made_up else None
        self._scores = scores_in(self._planner.trace.facts.model, self._expected)

    def takes(self, weight: Factorable) -> bool:
        """Whether nothing need be written where this weight lies in a basis."""
        return self._fed is not None and weight.place in self._fed.weights

    def close(self) -> None:
        """Gives back what it takes, when all has been tried."""
        self._fed = None
        self._known, self._seen = {}, {}

    def lost(self, gone: Mapping[int, Ints], bases: Sequence[Basis] = ()) -> float:
        """What the outputs lose without these channels of groups (index -> [k]) and with weights in these bases.

        Infinity where that cannot be.
        """
        try:
            return lost(self._expected, self._without(gone, bases), self._scores)
        except Disagreement:
            return np.inf

    def error(self, gone: Mapping[int, Ints], bases: Sequence[Basis] = ()) -> float:
        """The relative error of the outputs without these channels of groups (index -> [k]) and with these bases.

        Raises Disagreement.
        """
        return self._error(self._without(gone, bases))

    def error_of(self, twin: Twin) -> float:
        """The relative error of the outputs of a twin."""
        return self._error(self._outputs(twin))

    def _error(self, found: Results) -> float:
        known = self._varying
        return (compare(self._expected, found) if known is None else known.compare(found)).error

    def _without(self, gone: Mapping[int, Ints], bases: Sequence[Basis] = ()) -> Results:
        if bases:
            return self._run(gone, bases)
        key = frozenset((group, channels.tobytes()) for group, channels in gone.items())
        if key in self._seen:
            return self._seen[key]
        found = self._run(gone, ())
        if sum(value.nbytes for feed in found for value in feed.values()) <= SMALL:
            self._seen[key] = found
        return found

    def _run(self, gone: Mapping[int, Ints], bases: Sequence[Basis]) -> Results:
        if self._fed is None:
            twin = self._refitted(gone)
            for basis in bases:
                twin.factor(basis.factor(twin, None))
            return self._outputs(twin)
        felt = {g: channels for g, channels in gone.items() if g not in self._planner.quantized}
        parts: dict[Hashable, Choice] = {(g, len(channels)): self._choice(g, channels) for g, channels in felt.items()}
        folded, shift = dict[Place, Array](), dict[int, Floats]()
        turning = dict[Place, list[Turn | Blend]]()
        for choice in parts.values():
            for place, changes in choice.turning.items():
                turning.setdefault(place, []).extend(changes)
            for place, weight in choice.folded.items():
                known = place in folded
                folded[place] = folded[place] + (weight - self._planner.original.weight(*place)) if known else weight
            for node, added_ in choice.shift.items():
                shift[node] = shift.get(node, 0.0) + added_
        for basis in bases:
            place = basis.weight.place
            whole = folded[place] if place in folded else self._planner.original.weight(*place)
            folded[place] = basis.within(whole, self._read(basis.weight))
            parts[place, basis.ranks] = Choice({place: folded[place]}, {})
        return self._fed.model(self._turned(Choice(folded, shift, turning)), parts, self._feeds)

    def rows_in(self, basis: Basis) -> Array:
        """A table in a basis, of its shape, as far as the inputs ask for its rows."""
        whole = self._planner.original.weight(*basis.weight.place)
        return basis.within(whole, self._read(basis.weight))

    def _read(self, weight: Factorable) -> Ints | None:
        """[k] the rows of a table that the inputs ask for; None of another weight."""
        if weight.place not in self._rows:
            rows = rows_read(self._planner.trace, weight, self._feeds) if weight.lookup else None
            self._rows[weight.place] = rows
        return self._rows[weight.place]

    def _turned(self, choice: Choice) -> Choice:
        """A choice with what is still to be done to rows of weights."""
        folded, shift = dict(choice.folded), dict(choice.shift)
        for place, changes in choice.turning.items():
            weight = folded.get(place, self._planner.original.weight(*place))
            action = self._planner.trace.linear_map(place[0])
            added = shift.get(place[0]) if action is not None and place[1] == action.weight else None
            for change in changes:
                weight = change.of(weight)
                added = None if added is None else change.of(added)
            folded[place] = weight
            if added is not None:
                shift[place[0]] = added
        return Choice(folded, shift)

    def _choice(self, group: int, channels: Ints) -> Choice:
        """What the consumers of one group are given where it alone is narrowed. Raises Disagreement."""
        mine = self._known.setdefault(group, {})
        if len(channels) not in mine:
            try:
                with costing(self._by_index[group]):
                    twin = self._refitted({group: channels})
            except Disagreement as problem:
                self.aside = self.aside.with_groups([group], problem)
                raise
            places = dict.fromkeys((*twin.turns, *(place for mix in twin.mixes.values() for place in mix.blends)))
            choice = Choice(twin.folded, twin.shift, {place: twin.turning(place) for place in places})
            if sum(weight.nbytes for weight in choice.folded.values()) > KEPT:
                return choice
            mine[len(channels)] = choice
            for old in list(mine)[:-RECENT]:
                del mine[old]
        return mine[len(channels)]

    def _refitted(self, gone: Mapping[int, Ints]) -> Twin:
        known = self._estimate.real is not None and gone.keys() <= self._fits
        twin = self._planner.without(gone, checked=not known)
        self._fits.update(gone)
        if any(self._planner.manner(g).refits for g in self._planner.groups if g.index in gone):
            refit_by(twin, self._estimate)
        return twin

    def _outputs(self, twin: Twin) -> Results:
        if self._fed is not None and self._fed.takes(twin):
            shift = {node: added for node in twin.shift if (added := twin.added(node)) is not None}
            whole = Choice(twin.rewritten, shift)
            return self._fed.model(whole, None if whole.folded or shift else {}, self._feeds)
        written = write(twin, {})  # its weights may lie in a file as long as it is there
        return results(written.model, self._feeds)


@dataclass(frozen=True, eq=False)
class _Fed:
    """A model, and the places and nodes where it is fed."""

    model: Stretches
    weights: Mapping[Place, tuple[str, Array]]

    def takes(self, twin: Twin) -> bool:
        """Whether all that a twin changes is fed; pairs of factors elsewhere are not."""
        return twin.rewritten.keys() <= self.weights.keys()


def _fed(planner: Planner, feeds: Sequence[Feed], pairs: Sequence[Factorable]) -> _Fed | None:
    """A planner's model in stretches, None where it cannot be fed."""
    trace = planner.trace
    facts = trace.facts
    if wire.size(facts.model) >= APART_FROM or not trace.plain:
        return None
    model, stem = unbatched(facts.model), Names.of(facts.model.graph).prefix("__fed", "_")
    slots = [path.slot for g in planner.groups if g.index not in planner.quantized for path in paths(trace, g)]
    weights: dict[Place, tuple[str, Array]] = {}
    shifts: dict[int, tuple[str, Array]] = {}
    for place in dict.fromkeys((slot.node, slot.input) for slot in slots):
        weights[place] = f"{stem}w{len(weights)}", planner.original.weight(*place)
        action, node = trace.linear_map(place[0]), facts.nodes[place[0]]
        shape = facts.shapes.get(node.outputs[0].name)
        if action is not None:
            if shape is None:
                return None
            sizes = [size if axis == action.output_axis else 1 for axis, size in enumerate(shape)]
            shifts[place[0]] = f"{stem}s{place[0]}", np.zeros(sizes, weights[place][1].dtype)
    for place in (pair.place for pair in pairs if pair.place not in weights):
        weights[place] = f"{stem}w{len(weights)}", planner.original.weight(*place)
    fed, samples = Fed(weights, shifts), sum(map(batch_in, feeds))
    everywhere = Choice({place: value for place, (_, value) in weights.items()}, {})
    for most in (STRETCHES, 1):
        found = divided(trace, model, fed, samples, most)
        try:
            found(NOTHING_GONE, {}, feeds[:1])
            found(everywhere, None, feeds[:1])
        except InputError:
            continue
        return _Fed(found, weights)
    return None
