"""Random graphs (random_graphs.py), with planted copies of channels.

Whatever the graph: `--lossless` keeps its function, and the small model equals its expanded twin however
much is removed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.drawing import examples
from support.lossless import LOSSLESS
from support.planted.net import (
    run,
    signed_feed,
    traced,
    widths,
)
from support.random_graphs import models

from onnx_condense import Options, condense
from onnx_condense.merging.deciding import plan_group
from onnx_condense.merging.judging import judge
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.plan import Read
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Depthwise, Merge, Method
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.balance import even_out


def distance(a: onnx.ModelProto, b: onnx.ModelProto) -> float:
    feed = signed_feed(a, batch=16)
    (left,), (right,) = run(a, feed), run(b, feed)
    assume(np.isfinite(left).all())
    return float(np.linalg.norm(left - right)) / max(float(np.linalg.norm(left)), 1e-12)


def test_lossless_keeps_the_function() -> None:
    removed: list[int] = []

    @given(models())
    @examples(120)
    def check(model: onnx.ModelProto) -> None:
        small = condense(model, LOSSLESS).model
        assert distance(model, small) <= 2e-5
        removed.append(sum(widths(model).values()) - sum(widths(small).values()))

    check()
    assert np.mean(np.array(removed) > 0) > 0.8, "most graphs hold copies that merge"


def test_surgery_holds_at_any_threshold() -> None:
    """`condense` raises VerificationError where the small model is not its expanded twin."""
    removed: list[int] = []
    merges: list[Merge] = ["ratio", "delete", "auto"]
    kinds = list(Depthwise)

    @given(
        models(),
        st.sampled_from([0.5, 0.7, 0.9]),
        st.sampled_from(merges),
        st.sampled_from(kinds),
        st.booleans(),
    )
    @examples(90)
    def check(model: onnx.ModelProto, threshold: float, merge: Merge, depthwise: Depthwise, sequential: bool) -> None:
        options = Options(threshold=threshold, merge=merge, depthwise=depthwise, sequential=sequential, align=1)
        small = condense(model, options).model
        onnx.checker.check_model(small)
        removed.append(sum(widths(model).values()) - sum(widths(small).values()))

    check()
    assert np.mean(np.array(removed) > 0) > 0.8


def test_random_deletion() -> None:
    """Half of the channels of every cell go: the small model is the twin without them."""
    removed: list[int] = []

    @given(models(), st.integers(0, 2**16))
    @examples(90)
    def check(model: onnx.ModelProto, seed: int) -> None:
        rng = np.random.default_rng(seed)
        trace = traced(model)
        stay: set[int] = set()
        while True:
            twin = Twin(trace)
            for group in trace.groups:
                if group.index in stay:
                    continue
                plan = plan_group(judge(twin, group, MANNERS[Method.DELETE]), 1.0, 1)
                gone = np.zeros(plan.width, dtype=bool)
                for cell in group.cells:
                    gone[rng.permutation(cell)[: len(cell) // 2]] = True
                gone = even_out(gone, np.ones(plan.width), group.partitions)
                main = np.where(gone, -1, np.arange(plan.width))
                reads = tuple(deleted(read, main) for read in plan.reads)
                twin.apply(group, replace(plan, main=tuple(main.tolist()), reads=reads))
            try:
                small = write(twin, {})
                break
            except Disagreement as problem:
                stay |= {g.index for g in trace.groups if np.isin(g.units, problem.units).any()}
        twin = write(twin, {}, expanded=True)
        assert distance(twin.model, small.model) <= 1e-5
        removed.append(sum(widths(model).values()) - sum(widths(small.model).values()))

    check()
    assert np.mean(np.array(removed) > 0) > 0.8


def deleted(read: Read, main: NDArray[np.int64]) -> Read:
    return replace(read, ratio=tuple(np.where(main < 0, 0.0, 1.0).tolist()), constant=(0.0,) * len(main))
