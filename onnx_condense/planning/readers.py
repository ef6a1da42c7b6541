"""How a group's channels vary as its consumers read them, and which of them go first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Floats, Ints
from onnx_condense.merging.mixing import lines_of
from onnx_condense.merging.paths import Path, by_channel, paths
from onnx_condense.planning.thresholds import Planner
from onnx_condense.refitting.consumer import FEATURES, Consumer, consumer_of
from onnx_condense.refitting.elimination import Reader, eliminate
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.pairs import Bilinear, bilinears, sides
from onnx_condense.refitting.reading import Source, reading_of
from onnx_condense.tracing.trace import Group

BLOCK = 1024
"""Most channels of a part of a group that has more than `FEATURES`; how parts vary together is not known."""


@dataclass(frozen=True, eq=False)
class Part:
    """Channels of a group that are put in order together.

    mine: [k] which channels, none of which goes exactly. sources: per path, what says how they vary; None of nothing.
    """

    mine: Ints
    sources: Sequence[tuple[Path, Source | None]]


@dataclass(frozen=True, eq=False)
class Orders:
    """The order in which channels of groups go: those that cost nothing, then those whose consumers lose least."""

    planner: Planner
    estimate: Estimate

    def prepare(self, groups: Sequence[Group]) -> None:
        """Measures what all of them ask for at once."""
        found = [source for group in groups for part in self._parts(group) for _, source in part.sources]
        found += [side for group in groups for side in sides(self.planner.trace, group)]
        self.estimate.moments(list({source.key: source for source in found if source is not None}.values()))

    def of(self, group: Group) -> tuple[Ints, Floats]:
        """The order [n] of a group's channels, and what has been lost after each [n], never falling."""
        exact = self.planner.freely(group)
        if self.planner.trace.pairs_of(group):
            order, losses = self._of_products(group)
        else:
            order, losses = _together([self._eliminated(group, part) for part in self._parts(group)])
        return np.concatenate([exact, order]), np.concatenate([np.zeros(len(exact)), losses])

    def _parts(self, group: Group) -> Iterator[Part]:
        channels = np.setdiff1d(np.arange(len(group.units)), self.planner.freely(group))
        parts = 1 if len(channels) <= FEATURES else -(-len(channels) // BLOCK)
        mine = [path for path in paths(self.planner.trace, group) if path.side < 0]
        for part in np.array_split(channels, parts):
            yield Part(part, [(path, self._source(path, part)) for path in mine])

    def _source(self, path: Path, mine: Ints) -> Source | None:
        trace = self.planner.trace
        consumer = consumer_of(trace, path.slot)
        if consumer is not None or path.slot.labels.size <= FEATURES:
            return consumer
        inside = np.isin(path.units, mine)
        places, times = path.places[inside], int(path.rank.max()) + 1
        if not len(places) or len(places) != times * len(np.unique(path.units[inside])):
            return None
        places = places[np.lexsort((path.units[inside], path.rank[inside]))]
        return reading_of(trace, path.slot, places.reshape(times, -1))

    def _of_products(self, group: Group) -> tuple[Ints, Floats]:
        """The order of channels that products of data add up, each line by itself where nothing else reads them."""
        parts, trace = list(self._parts(group)), self.planner.trace
        lines = lines_of(trace, group)
        if not any(part.sources for part in parts):
            every = np.concatenate([part.mine for part in parts])
            parts = [Part(every[lines[every] == line], ()) for line in np.unique(lines[every]).tolist()]
        found = bilinears(trace, group, self.estimate) or [Bilinear(-1, np.eye(len(lines)), np.eye(len(lines)))]
        orders = [_together([self._eliminated(group, part, one) for part in parts]) for one in found]
        return min(orders, key=lambda order: float(order[1][len(order[1]) // 2]))

    def _eliminated(self, group: Group, part: Part, product: Bilinear | None = None) -> tuple[Ints, Floats]:
        readers: list[Reader] = []
        for path, source in part.sources:
            readers.append((self._covariance(path, source, part.mine), self._gram(group, path, part.mine)))
        if product is not None:
            mine = np.ix_(part.mine, part.mine)
            readers.append(_as_much(readers, (product.covariance[mine], product.gram[mine])))
        n = len(part.mine)
        strength = self.estimate.strength(source for _, source in part.sources if source is not None)
        order, losses = eliminate(readers or [(np.eye(n), np.zeros((n, n)))], strength)
        return part.mine[order], losses

    def _covariance(self, path: Path, source: Source | None, mine: Ints) -> Floats:
        """[k, k] of some channels [k] as a path reads them, summed over places that hold them; else as if all alike.

        Of a consumer that is not refitted, variances alone: the others will not make up for what goes.
        """
        moments = None if source is None else self.estimate.moments([source])[0]
        if source is None or moments is None:
            return np.eye(len(mine))
        local, result = _local(mine, path), np.zeros((len(mine), len(mine)))
        for rank in np.unique(path.rank).tolist():
            here = (path.rank == rank) & (local >= 0)
            if not isinstance(source, Consumer):
                units = np.sort(local[here])
                result[np.ix_(units, units)] += np.diag(moments.xx.diagonal())
                continue
            taps, places, units = source.layout.taps, source.layout.channel_of(path.places[here]), local[here]
            for tap in range(taps):
                features = places * taps + tap
                result[np.ix_(units, units)] += moments.xx[np.ix_(features, features)] / taps
        return result

    def _exactly(self, group: Group, path: Path) -> tuple[Ints, Floats]:
        """[n] what each channel of a group merges into exactly (itself, if it does not), and its ratio on a path."""
        plan, n = self.planner.exact.get(group.index), len(group.units)
        if plan is None:
            return np.arange(n), np.ones(n)
        place = path.slot.node, path.slot.input, path.number
        return np.array(plan.main), np.array(next(r.ratio for r in plan.reads if (r.node, r.input, r.path) == place))

    def _gram(self, group: Group, path: Path, mine: Ints) -> Floats:
        """[k, k] WᵀW of a path for some channels [k], which stand for those too that merge into them exactly."""
        slot = path.slot
        slices = by_channel(self.planner.original.weight(slot.node, slot.input), slot.axes, slot.groups)
        rows = slices.reshape(len(slices), -1).T
        main, ratio = self._exactly(group, path)
        local, result = _local(mine, path, main), np.zeros((len(mine), len(mine)))
        for rank in np.unique(path.rank).tolist():
            here = (path.rank == rank) & (local >= 0)
            columns = rows[:, path.places[here]].astype(np.float64)
            units = local[here]
            if len(np.unique(units)) < len(units):
                merged = np.zeros((len(columns), len(mine)))
                np.add.at(merged.T, units, (columns * ratio[path.units[here]]).T)
                columns, units = merged, np.arange(len(mine))
            result[np.ix_(units, units)] += columns.T @ columns
        return result


def _as_much(readers: Sequence[Reader], product: Reader) -> Reader:
    """A product whose channels count in all as much as they do for readers, whose outputs are others."""
    theirs, own = (sum(float(np.einsum("ij,ji->", *one)) for one in some) for some in (readers, [product]))
    return (product[0], product[1] * (theirs / own)) if theirs > 0 and own > 0 else product


def _local(mine: Ints, path: Path, main: Ints | None = None) -> Ints:
    """[places] which of some channels [k] lies there, or stands for what does; -1 where none does."""
    units = path.units if main is None else main[path.units]
    at = np.searchsorted(mine, units).clip(max=len(mine) - 1)
    return np.asarray(np.where(mine[at] == units, at, -1))


def _together(orders: Sequence[tuple[Ints, Floats]]) -> tuple[Ints, Floats]:
    """One order of all, each in its own: what goes from one does not change what others lose."""
    if len(orders) == 1:
        return orders[0]
    each = [np.diff(losses, prepend=0.0) for _, losses in orders]
    turn = np.argsort(np.concatenate([np.maximum.accumulate(part) for part in each]), kind="stable")
    return np.concatenate([order for order, _ in orders])[turn], np.cumsum(np.concatenate(each)[turn])
