"""Merge methods: every one has a row, and what the rows say holds."""

from __future__ import annotations

import pytest
from support import builders

import onnx_condense as oc
from onnx_condense.merging.methods import MANNERS, manner_of
from onnx_condense.options import MERGES, Depthwise, Method


def test_every_method_has_a_row() -> None:
    assert set(MANNERS) == set(Method) == {Method.LOSSLESS, *MERGES}


def test_the_options_name_a_row() -> None:
    assert manner_of(oc.Options(lossless=True)) == MANNERS[Method.LOSSLESS]
    assert manner_of(oc.Options()) == MANNERS[Method.AUTO]
    assert manner_of(oc.Options(merge="ratio", depthwise="kernel")).depthwise is Depthwise.KERNEL
    assert manner_of(oc.Options(merge="ratio"), Method.LOSSLESS).exact


@pytest.mark.parametrize("method", [Method.LOSSLESS, Method.MOMENTS, Method.RATIO, Method.DELETE])
def test_consumers_are_refitted_where_the_row_says_so(method: Method) -> None:
    model = builders.mlp((8, 24, 24, 3), clusters=6, noise=0.0 if method is Method.LOSSLESS else 0.3)
    given = {"lossless": True} if method is Method.LOSSLESS else {"merge": method, "threshold": 0.7}
    plan = oc.condense(model, oc.Options(align=1, **given)).plan  # type: ignore[arg-type]
    assert plan.method is method
    assert plan.groups
    assert bool(plan.refits) == MANNERS[method].refits


def test_a_cautious_method_refits_only_where_the_outputs_lose_less() -> None:
    """Nothing states the statistics of these layers, and what is assumed of them is wrong."""
    model = builders.mlp((8, 24, 24, 3), clusters=6, noise=0.3)
    found = {}
    for merge in ("auto", "moments", "ratio"):
        result = oc.condense(model, oc.Options(align=1, threshold=0.7, merge=merge))
        assert result.report.verification is not None
        found[merge] = result.report.verification.approximation_error
    assert found["auto"] == found["ratio"] < found["moments"]
