"""Budgets on deep networks: narrowing one group asks nothing of what does not hold its channels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from support.deep import network
from support.planted.net import traced

from onnx_condense import Options
from onnx_condense.arrays import Ints
from onnx_condense.planning.thresholds import Planner
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.refit import refit_by
from onnx_condense.rewriting.shapes import shapes_of


def calls(work: Callable[[], object]) -> int:
    """How many functions are called."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def narrowed(planner: Planner, estimate: Estimate, gone: dict[int, Ints]) -> None:
    """What is done for a choice that is tried."""
    twin = planner.without(gone)
    refit_by(twin, estimate)
    shapes_of(twin)


def test_a_group_is_narrowed_in_as_many_steps_however_deep_the_network_is() -> None:
    counts = []
    for blocks in (3, 12):
        trace = traced(network("residual", blocks))
        planner = Planner(trace, Options(budget=("params", 0.8)), 1, trace.groups).with_exact()
        inner = min(planner.groups, key=lambda group: len(trace.slots_of(group)))
        gone = {inner.index: np.arange(len(inner.units) // 2 + 1)}
        work = partial(narrowed, planner, Estimate(trace, trace.facts.feed, 0), gone)
        work()  # what is remembered of a model
        counts.append(calls(work))
    assert counts[1] <= 1.1 * counts[0], counts
