"""Calibration inputs in shards, read when they are needed: by workers, where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pickle import PicklingError
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np

from onnx_condense.data.reading import Given, parts
from onnx_condense.data.sources import absolute
from onnx_condense.errors import UsageError, WorkerError
from onnx_condense.extras import need
from onnx_condense.model.blas import limited
from onnx_condense.model.inputs import Feed, Inputs, InputSpec, read_feeds, tied
from onnx_condense.model.outputs import samples_in

T = TypeVar("T")
Item = TypeVar("Item")

TOO_LITTLE = ", perhaps of too little memory: start fewer of them, or cut the inputs into more shards"

CONNECT = 10
"""Seconds to wait for a Dask scheduler."""

NUMBERS = 2**19
"""Numbers of inputs that are run at once at most; what layers make of them is many times as much."""

REMEMBERED = 2**28
"""Bytes of samples that are remembered at most, instead of being read again."""

CHOOSING = 32
"""Samples from which on they choose which channels, bases and heads a budget takes."""

JUDGES = 64
"""Most samples that judge what a budget takes, and at most half of them all."""

HELD_BACK = 5
"""One in so many calibration samples verifies, where there are no inputs for that."""


@dataclass(eq=False)
class Memory:
    """What was read of a shard; workers are not sent it."""

    feeds: list[Feed] = field(default_factory=list)

    def keep(self, feeds: list[Feed]) -> None:
        """Remembers samples, where they are not too large; others are forgotten where all would be."""
        size = _bytes(feeds)
        if size + sum(_bytes(other.feeds) for other in _REMEMBERED) > REMEMBERED:
            for other in list(_REMEMBERED):
                other.feeds = []
            _REMEMBERED.clear()
        if size <= REMEMBERED:
            self.feeds = feeds
            _REMEMBERED.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is before anything was read."""
        return Memory, ()


_REMEMBERED: WeakSet[Memory] = WeakSet()


def _bytes(feeds: Sequence[Feed]) -> int:
    return sum(value.nbytes for feed in feeds for value in feed.values())


@dataclass(frozen=True, eq=False)
class Shard:
    """Samples in a file, or in memory.

    source: a path, or arrays. first: number of its first sample among those of all shards.
    kept: samples to estimate from. holds_back: whether the others verify. skipped: samples at the beginning that are
    used elsewhere. memory: of those to estimate from, shared with shards that skip more or fewer.
    """

    source: Given
    specs: tuple[InputSpec, ...]
    first: int
    kept: int
    holds_back: bool
    skipped: int = 0
    memory: Memory = field(default_factory=Memory, repr=False)

    def feeds(self) -> list[Feed]:
        """The samples to estimate from; those of a file are read from it. Raises InputError."""
        kept = self.memory.feeds
        if not kept:
            feeds = read_feeds(self.specs, self.source)
            kept = held_back(feeds, divisible(self.specs), self.first)[0] if self.holds_back else feeds
            self.memory.keep(kept)
        mine = cut(cut(kept, divisible(self.specs), self.skipped)[1], divisible(self.specs), self.kept)[0]
        return pieces(mine, divisible(self.specs))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs to estimate from, and who reads them; without an executor this process does, shard by shard."""

    shards: tuple[Shard, ...] = ()
    executor: Executor | None = None

    @cached_property
    def samples(self) -> int:
        """How many there are to estimate from."""
        return sum(shard.kept for shard in self.shards)

    @property
    def chooses(self) -> bool:
        """Whether there are enough to choose what a budget takes."""
        return self.samples >= CHOOSING

    @property
    def suffices(self) -> bool:
        """Whether there are enough to choose by nothing else: beside those that judge, as many at least."""
        return self.samples >= 2 * JUDGES

    @property
    def holds_back(self) -> bool:
        """Whether some verify that nothing is estimated from."""
        return any(shard.holds_back for shard in self.shards)

    def split(self, samples: int) -> tuple[list[Feed], Calibration]:
        """The first so many samples, or all where there are fewer, in whole feeds of a fixed batch; and the others."""
        found: list[Feed] = []
        rest: list[Shard] = []
        for shard in self.shards:
            missing = samples - sum(map(samples_in, found))
            first = cut(shard.feeds(), divisible(shard.specs), missing)[0] if missing > 0 and shard.kept else []
            taken = sum(map(samples_in, first))
            found += first
            rest.append(replace(shard, skipped=taken, kept=shard.kept - taken))
        return found, replace(self, shards=tuple(rest))

    def judges(self) -> tuple[list[Feed], Calibration]:
        """The samples that judge what a budget takes, and the others."""
        return self.split(min(JUDGES, self.samples // 2))

    def taken(self, rest: Calibration) -> Calibration:
        """What a split took that left these others."""
        shards = (replace(one, kept=other.skipped) for one, other in zip(self.shards, rest.shards, strict=True))
        return replace(self, shards=tuple(shard for shard in shards if shard.kept))

    def each(self, job: Callable[[Shard], T]) -> Iterator[T]:
        """What a job makes of every shard, in their order. Raises WorkerError where workers die.

        The job is pickled for other processes. BLAS has one thread meanwhile, since sums are rounded in another way
        with more: the results are the same with and without an executor.
        """
        with limited(1):
            yield from spread(self.executor, partial(_on_one_thread, job), self.shards)


def spread(executor: Executor | None, job: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
    """What a job makes of every item, in their order; without an executor in this process.

    Raises WorkerError where workers die, and UsageError where the job cannot be sent to them.
    """
    try:
        yield from map(job, items) if executor is None else executor.map(job, items)
    except BrokenExecutor as error:
        raise WorkerError(f"a worker died{TOO_LITTLE}") from error
    except (PicklingError, AttributeError) as error:  # the latter before Python 3.12, of local functions
        if "pickle" not in str(error):
            raise
        raise UsageError(f"workers cannot be sent what they are to do ({error}): use a function of a module") from error


def _on_one_thread(job: Callable[[Shard], T], shard: Shard) -> T:
    limited(1)  # for good in a worker: another of its threads may be at it
    return job(shard)


@contextmanager
def dask(address: str, timeout: float = CONNECT) -> Iterator[Executor]:
    """The workers of a Dask cluster; `timeout` in seconds.

    Raises UsageError without the extra, WorkerError where the cluster fails.
    """
    need("--dask", "dask", ["distributed"])
    import distributed

    try:
        client: Any = distributed.Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkerError(f"no Dask scheduler answers at {address}: start one with `dask scheduler`") from error
    with client:
        try:
            yield client.get_executor(pure=False)
        except distributed.KilledWorker as error:
            raise WorkerError(f"workers died over and over{TOO_LITTLE}") from error


def opened(
    specs: Sequence[InputSpec], given: Inputs | Iterable[Inputs], holds_back: bool, sent: bool = False
) -> tuple[tuple[Shard, ...], list[Feed]]:
    """Shards of what was given, and the feeds that verify, none where none are held back. Raises InputError.

    Every file is read once, to check it and to count its samples. sent: whether workers will read them.
    """
    shards: list[Shard] = []
    held: list[Feed] = []
    first = 0
    several = [given] if isinstance(given, str | os.PathLike | Mapping) else given
    for part in (part for one in several for part in parts(specs, one, not sent)):
        feeds = read_feeds(specs, part)
        rest, out = held_back(feeds, divisible(specs), first) if holds_back else (feeds, [])
        shards.append(Shard(absolute(part), tuple(specs), first, sum(map(samples_in, rest)), holds_back))
        held += pieces(out, divisible(specs))
        first += sum(_parts(feed, divisible(specs)) for feed in feeds)
    if holds_back and not held:
        shards = [replace(shard, holds_back=False) for shard in shards]
        held = [feed for shard in shards for feed in shard.feeds()]
    return tuple(shards), held


def divisible(specs: Sequence[InputSpec]) -> bool:
    """Whether feeds may be cut along the first axis."""
    return all(spec.dims and isinstance(spec.dims[0], str) for spec in specs) and not tied(specs)


def cut(feeds: Sequence[Feed], divisible: bool, samples: int) -> tuple[list[Feed], list[Feed]]:
    """(the first so many samples, the others); feeds that are not divisible are taken whole."""
    first: list[Feed] = []
    rest: list[Feed] = []
    for feed in feeds:
        size = samples_in(feed)
        wanted = min(size, samples) if _parts(feed, divisible) == size else size * (samples > 0)
        samples -= wanted
        for start, end, into in ((0, wanted, first), (wanted, size, rest)):
            if (start, end) == (0, size):
                into.append(feed)
            elif start < end:
                into.append({name: value[start:end] for name, value in feed.items()})
    return first, rest


def pieces(feeds: Sequence[Feed], divisible: bool, largest: int | None = None) -> list[Feed]:
    """The same samples in feeds of at most `NUMBERS` numbers, where they are divisible: what runs must fit memory.

    largest: samples of a feed at most.
    """
    found: list[Feed] = []
    for feed in feeds:
        samples = samples_in(feed)
        most = max(1, NUMBERS * samples // max(1, sum(value.size for value in feed.values())))
        most = most if largest is None else min(most, largest)
        if _parts(feed, divisible) < samples or samples <= most:
            found.append(feed)
            continue
        count = -(-samples // most)
        ends = [samples * part // count for part in range(count + 1)]
        found += [{n: v[a:b] for n, v in feed.items()} for a, b in pairwise(ends)]
    return found


def held_back(feeds: Sequence[Feed], divisible: bool, first: int = 0) -> tuple[list[Feed], list[Feed]]:
    """(feeds to estimate from, feeds to verify on): every fifth sample is held back, every fifth feed if not divisible.

    `first`: number of the first sample or feed.
    """
    rest: list[Feed] = []
    held: list[Feed] = []
    for feed in feeds:
        size = _parts(feed, divisible)
        out = np.arange(first, first + size) % HELD_BACK == HELD_BACK - 1
        first += size
        for chosen, into in ((~out, rest), (out, held)):
            if chosen.all():
                into.append(feed)
            elif chosen.any():
                into.append({name: value[chosen] for name, value in feed.items()})
    return rest, held


def _parts(feed: Feed, divisible: bool) -> int:
    """How many parts a feed may be cut into: as many as samples, where all inputs have as many, else one."""
    even = len({len(value) for value in feed.values() if value.ndim}) < 2
    return samples_in(feed) if divisible and even else 1
