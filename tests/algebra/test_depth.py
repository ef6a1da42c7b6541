"""Questions about signals take time linear in the graph: each is answered once for each of its steps, and no step
takes a frame of Python's stack.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from support.deep import KINDS, network
from support.planted.net import traced

from onnx_condense.algebra.numbers import Answers, Numbers
from onnx_condense.algebra.signals import Signal
from onnx_condense.merging.deciding import plan_group
from onnx_condense.merging.judging import judge
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Method
from onnx_condense.tracing.trace import Trace

FEW = 3
"""Blocks of the smaller network."""


@contextmanager
def frames(count: int) -> Iterator[None]:
    """Few frames beyond those that are there."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + count)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def judged(trace: Trace, method: Method) -> None:
    """Judges every group of a model, and decides it."""
    twin = Twin(trace)
    for group in trace.groups:
        plan = plan_group(judge(twin, group, MANNERS[method]), 0.9, 1)
        assert plan.shrinks


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """How often each question was answered anew, by question, numbers and signal."""
    found: Counter[Any] = Counter()
    initialize = Answers.__init__

    def counting(self: Answers[Any], rule: Any) -> None:
        def counted(signal: Signal, numbers: Numbers) -> Any:
            found[self, numbers, signal] += 1
            return rule(signal, numbers)

        initialize(self, counted)

    monkeypatch.setattr(Answers, "__init__", counting)
    return found


@pytest.mark.parametrize("method", [Method.MOMENTS, Method.LOSSLESS])
@pytest.mark.parametrize("kind", KINDS)
def test_every_question_is_answered_once_and_their_number_is_linear(
    kind: str, method: Method, answers: Counter[Any]
) -> None:
    counts = []
    for blocks in (FEW, 2 * FEW, 3 * FEW):
        answers.clear()
        judged(traced(network(kind, blocks)), method)
        assert set(answers.values()) == {1}
        counts.append(answers.total())
    assert counts[2] - counts[1] == counts[1] - counts[0]


@pytest.mark.parametrize("method", [Method.MOMENTS, Method.LOSSLESS])
@pytest.mark.parametrize("kind", ["relu_chain", "doubling", "residual_relu", "normalized", "depthwise"])
def test_depth_takes_no_frames(kind: str, method: Method) -> None:
    trace = traced(network(kind, 30))
    with np.errstate(over="ignore"), frames(50):
        judged(trace, method)
