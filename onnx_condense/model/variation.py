"""Other sizes of the inputs: which symbolic axes can be varied is found by running the model.

Sizes may be tied (a total that is the sum of two others, a batch with two names): what does not run alone is tried
together with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from math import prod

import onnx

from onnx_condense.errors import InputError
from onnx_condense.model.expressions import Expression, expressions
from onnx_condense.model.inputs import Feed, InputSpec, random_feed
from onnx_condense.model.trial import Trial

Change = Callable[[int], int]
Sizes = Mapping[str, int]
"""Sizes of symbols by their names."""

SECOND: tuple[Change, ...] = (
    lambda size: size // 2 - 1 if size > 5 else size + 1,
    lambda size: size + 1,
    lambda size: size + 32,
    lambda size: 2 * size,
    lambda size: max(1, size // 2),
)
"""How sizes are changed to see what follows them; the first change that the model takes is used."""

THIRD: tuple[Change, ...] = (
    lambda size: size + 1,
    lambda size: size // 2,
    lambda size: 2 * size,
    lambda size: size + 32,
)
"""How they are changed once more, each symbol in another way where the model takes that."""

TRIALS = 128
"""Times that a model is run at most to see which symbols are tied."""

TIED = 2
"""Symbols, or symbols of one kind, that are moved along with another one at most."""

ELEMENTS = 2**24
"""Numbers that inputs of other sizes hold at most, or four times as many as the inputs that they are tried for."""


@dataclass(frozen=True)
class Axis:
    """A symbolic axis of an input: its name, and its size in every feed."""

    input: str
    axis: int
    name: str
    sizes: tuple[int, ...]
    varied: bool


def symbolic_axes(specs: Sequence[InputSpec], feeds: Sequence[Feed]) -> tuple[Axis, ...]:
    """What is known of every symbolic axis."""
    found = []
    for spec, axis in _places(specs):
        sizes = tuple(feed[spec.name].shape[axis] for feed in feeds)
        found.append(Axis(spec.name, axis, str(spec.dims[axis]), sizes, len(set(sizes)) > 1))
    return tuple(found)


def other_feeds(model: onnx.ModelProto | Trial, specs: Sequence[InputSpec], feed: Feed, seed: int) -> tuple[Feed, ...]:
    """Feeds with other sizes on symbolic axes, as far as the model runs on them.

    Where every symbol can be changed at once: one such feed, and one more where there are three sizes of each. Else a
    feed for each symbol, with those that are tied to it, and one for all of these together.
    """
    if not any(_places(specs)):
        return ()
    search = _Search.of(model if isinstance(model, Trial) else Trial(model), specs, feed, seed)
    return search.together() or search.apart()


def _places(specs: Sequence[InputSpec]) -> Iterator[tuple[InputSpec, int]]:
    """The symbolic axes."""
    return ((spec, axis) for spec in specs for axis, dim in enumerate(spec.dims) if isinstance(dim, str))


@dataclass(frozen=True)
class _Symbols:
    """The symbols of a model's inputs: an axis without a name, or whose name stands for several sizes, is its own.

    at: (input, axis) -> symbol. sizes: of each, in the feed. bound: those that follow from others by their names.
    """

    at: Mapping[tuple[str, int], str]
    sizes: Sizes
    bound: Mapping[str, Expression]

    @staticmethod
    def of(specs: Sequence[InputSpec], feed: Feed) -> _Symbols:
        found: dict[str, set[int]] = {}
        for spec, axis in _places(specs):
            found.setdefault(str(spec.dims[axis]), set()).add(feed[spec.name].shape[axis])
        at = {}
        for spec, axis in _places(specs):
            name = str(spec.dims[axis])
            at[spec.name, axis] = name if name and len(found[name]) == 1 else f"{spec.name}:{axis}"
        sizes = {symbol: feed[name].shape[axis] for (name, axis), symbol in at.items()}
        bound = {name: rule for name, rule in expressions(sizes).items() if rule.at(sizes) == sizes[name]}
        return _Symbols(at, sizes, {name: rule for name, rule in bound.items() if rule.names})

    def sized(self, specs: Sequence[InputSpec], sizes: Sizes) -> list[InputSpec]:
        """The specs with these sizes of all symbols."""
        pairs = [(spec, list(enumerate(spec.dims))) for spec in specs]
        return [
            replace(spec, dims=tuple(sizes[self.at[spec.name, i]] if isinstance(d, str) else d for i, d in dims))
            for spec, dims in pairs
        ]

    def kinds(self, specs: Sequence[InputSpec]) -> list[tuple[str, ...]]:
        """The free symbols, together where they are the same axis of inputs that look alike (a cache of each layer)."""
        found: dict[object, list[str]] = {}
        for spec, axis in _places(specs):
            symbol, alike = self.at[spec.name, axis], tuple(d if isinstance(d, int) else 0 for d in spec.dims)
            known = any(symbol in symbols for symbols in found.values())
            if symbol not in self.bound and not known:
                found.setdefault((axis, alike, self.sizes[symbol]), []).append(symbol)
        return [tuple(symbols) for symbols in found.values()]


@dataclass(eq=False)
class _Search:
    """Runs a model on feeds of other sizes. base: the sizes of the free symbols; seen: those that were tried."""

    runner: Trial
    specs: Sequence[InputSpec]
    symbols: _Symbols
    base: Sizes
    seed: int
    most: int
    left: int = TRIALS
    seen: list[Sizes] = field(default_factory=list)

    @staticmethod
    def of(runner: Trial, specs: Sequence[InputSpec], feed: Feed, seed: int) -> _Search:
        symbols = _Symbols.of(specs, feed)
        base = {name: size for name, size in symbols.sizes.items() if name not in symbols.bound}
        most = max(ELEMENTS, 4 * sum(array.size for array in feed.values()))
        return _Search(runner, specs, symbols, base, seed, most, seen=[base])

    def tried(self, sizes: Sizes) -> Feed | None:
        """A feed with these sizes of the free symbols, None where the model does not run on it."""
        every = {**sizes, **{name: rule.at(sizes) for name, rule in self.symbols.bound.items()}}
        if sizes in self.seen or min(every.values()) < 1 or self.left <= 0:
            return None
        self.seen.append(sizes)
        made = self.symbols.sized(self.specs, every)
        if sum(prod(d for d in spec.dims if isinstance(d, int)) for spec in made) > self.most:
            return None
        self.left -= 1
        feed = random_feed(made, {}, self.seed)
        try:
            self.runner(feed)
        except InputError:
            return None
        return feed

    def together(self) -> tuple[Feed, ...]:
        """Feeds in which every symbol has another size than before, and than in each other."""
        second: Sizes = {}
        for change in SECOND:
            sizes = {name: change(size) for name, size in self.base.items()}
            if _differ(sizes, self.base) and (feed := self.tried(sizes)) is not None:
                second, first = sizes, feed
                break
        else:
            return ()
        count = len(THIRD)
        ways = [*([THIRD[(i + way) % count] for i in range(len(self.base))] for way in range(count))]
        for changes in (*ways, *([change] * len(self.base) for change in THIRD)):
            sizes = {name: change(size) for change, (name, size) in zip(changes, self.base.items(), strict=True)}
            if _differ(sizes, self.base) and _differ(sizes, second) and (feed := self.tried(sizes)) is not None:
                return first, feed
        return (first,)

    def apart(self) -> tuple[Feed, ...]:
        """Feeds in which symbols have another size one after the other, and one in which all of these have."""
        found: list[tuple[Sizes, Feed]] = []
        grouped: list[list[tuple[str, ...]]] = [self.symbols.kinds(self.specs), [(name,) for name in self.base]]
        for units, width in product(grouped, range(TIED + 1)):
            for unit in units:
                if any(sizes[name] != self.base[name] for sizes, _ in found for name in unit):
                    continue
                found += self._moved(unit, [u for u in units if u != unit], width)
        return (*self._together([sizes for sizes, _ in found]), *(feed for _, feed in found))

    def _together(self, found: Sequence[Sizes]) -> tuple[Feed, ...]:
        """The first feed that runs in which all these moves are made at once; none, or one."""
        moves = {name: sum(sizes[name] - size for sizes in found) for name, size in self.base.items()}
        for times in (2, -1, 1):
            if (feed := self.tried({name: size + times * moves[name] for name, size in self.base.items()})) is not None:
                return (feed,)
        return ()

    def _moved(self, unit: Sequence[str], others: Sequence[Sequence[str]], width: int) -> list[tuple[Sizes, Feed]]:
        """The first feed that runs with another size of a unit and of that many others; none, or one in a list."""
        for beside, change in product(combinations(others, width), SECOND):
            before = self.base[unit[0]]
            after, along = change(before), [name for names in beside for name in names]
            shifted = {name: self.base[name] + after - before for name in (*unit, *along)}
            scaled = shifted | {name: self.base[name] * after // before for name in along}
            inverse = shifted | {name: self.base[name] * before // after for name in along}
            for moved in (shifted, scaled, inverse):
                sizes = {**self.base, **moved}
                if after != before and (feed := self.tried(sizes)) is not None:
                    return [(sizes, feed)]
        return []


def _differ(one: Sizes, other: Sizes) -> bool:
    """Whether every symbol has another size."""
    return all(one[name] != other[name] for name in one)
