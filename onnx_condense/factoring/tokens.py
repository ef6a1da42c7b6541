"""How often the rows of a table of embeddings are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Floats, Ints
from onnx_condense.factoring.weights import Factorable
from onnx_condense.model.inputs import Feed
from onnx_condense.model.parts import Probe
from onnx_condense.refitting.samples import Calibration, Shard
from onnx_condense.tracing.trace import Trace

OFFSET = 2.7
"""Of Zipf's law, as Mandelbrot put it: the frequency of the k-th most frequent token is about 1 / (k + OFFSET)."""

NEAR = 2.0
"""Rows whose numbers differ by less than this factor are asked for about as often, where a vocabulary is sorted."""

PRIOR = 0.3
"""Weight of what Zipf's law says of rows that were not counted, against what rows near them say."""


@dataclass(frozen=True)
class _Counting:
    """Counts in one shard which rows several tables are asked for; workers get it."""

    probe: Probe
    names: tuple[str, ...]
    rows: tuple[int, ...]

    def __call__(self, shard: Shard) -> list[Floats]:
        found: list[Floats] = [np.zeros(count) for count in self.rows]
        for values in self.probe(shard.feeds()):
            for name, counts in zip(self.names, found, strict=True):
                places = values[name].reshape(-1).astype(np.int64)
                counts += np.bincount(places % len(counts), minlength=len(counts))
        return found


def frequencies(trace: Trace, tables: Sequence[Factorable], calibration: Calibration) -> list[Floats]:
    """[rows] for each table: how often each row is read. As calibration inputs say, smoothed; else as Zipf's law does.

    Rows stand for tokens in the order of how frequent they are, as most vocabularies are sorted.
    """
    if not tables:
        return []
    laws = [zipf(table.inputs) for table in tables]
    if not calibration.samples:
        return laws
    names = tuple(_tokens(trace, table) for table in tables)
    counting = _Counting(Probe.of(trace.facts.model, names), names, tuple(table.inputs for table in tables))
    total: list[Floats] = [np.zeros(table.inputs) for table in tables]
    for part in calibration.each(counting):
        total = [one + other for one, other in zip(total, part, strict=True)]
    return [smoothed(counts, law) for counts, law in zip(total, laws, strict=True)]


def rows_read(trace: Trace, table: Factorable, feeds: Sequence[Feed]) -> Ints:
    """[k] the rows of a table that some inputs ask for."""
    name = _tokens(trace, table)
    asked = [values[name].reshape(-1) for values in Probe.of(trace.facts.model, (name,))(feeds)]
    return np.unique(np.concatenate(asked).astype(np.int64) % table.inputs)


def _tokens(trace: Trace, table: Factorable) -> str:
    """The tensor that says which rows are read."""
    return str(trace.facts.nodes[table.node].inputs[1 - table.input].name)


def zipf(rows: int) -> Floats:
    """[rows] shares that fall with the number of the row."""
    falling = 1 / (np.arange(rows) + OFFSET)
    return np.asarray(falling / falling.sum())


def smoothed(counts: Floats, law: Floats) -> Floats:
    """[rows] shares from counts [rows], and for rows that were not counted from a law and from rows near them.

    Rows that are not among these tokens are among others about as often as those that are there once (Good, 1953), or
    least often: inputs may be there twice.
    """
    asked = counts[counts > 0]
    least = float(asked.min()) if len(asked) else 1.0
    rows, rare = np.arange(len(counts)), np.concatenate([[0], np.cumsum(counts == least)])
    first, last = (rows / NEAR).astype(np.int64), np.minimum(len(rows), np.ceil((rows + 1) * NEAR).astype(np.int64))
    near = (rare[last] - rare[first]) / (last - first)
    found = counts + least * (near + PRIOR * max(1, rare[-1]) * law)
    return np.asarray(found / found.sum())
