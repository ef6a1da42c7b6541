"""The multiple of channels that onnxruntime's convolutions want on this host."""

from __future__ import annotations

from typing import Any

import pytest
from support import builders

import onnx_condense as oc
from onnx_condense.errors import InputError
from onnx_condense.planning import alignment


def test_the_width_is_a_block_size_and_is_measured_once() -> None:
    width = alignment.block_width()
    assert width in (1, 4, 8, 16, 32)
    measured = alignment.block_width.cache_info().misses
    assert alignment.block_width() == width
    assert alignment.block_width.cache_info().misses == measured


@pytest.mark.parametrize("error", [InputError("onnxruntime does not want to"), OSError("no room")])
def test_no_alignment_where_onnxruntime_does_not_tell(error: Exception) -> None:
    def refuses(*arguments: Any, **options: Any) -> None:
        raise error

    assert alignment.probed_width(refuses) == 1


def test_the_probe_is_neither_blocked_nor_refused() -> None:
    """20 filters: a multiple of 4, so that onnxruntime blocks them, and of no block size, so that padding
    shows.
    """
    assert alignment.PROBE_FILTERS % 4 == 0
    assert all(alignment.PROBE_FILTERS % width for width in (8, 16, 32))


@pytest.mark.parametrize(("align", "width"), [(1, 5), (2, 6), (3, 6), (4, 8), (5, 5), (12, 12), (13, 13), (24, 24)])
def test_widths_are_rounded_up(align: int, width: int) -> None:
    model = builders.convnet((3, 24), clusters=5)
    result = oc.condense(model, oc.Options(threshold=0.88, align=align))
    assert [g.width_after for g in result.report.groups] == [width]
    assert result.report.alignment.multiple == align
    assert result.report.alignment.held_back == len(result.report.groups[0].held_back_channels) == width - 5
    assert (result.report.alignment.advice is None) == (width == 5)


def test_a_width_that_rounds_past_the_original_stays() -> None:
    result = oc.condense(builders.convnet((3, 6), clusters=5), oc.Options(threshold=0.88, align=4))
    assert [g.width_after for g in result.report.groups] == [6]
    assert result.plan.groups == ()


def test_gemm_is_never_aligned() -> None:
    result = oc.condense(builders.mlp((8, 24, 3), clusters=5), oc.Options(align=16))
    assert [g.width_after for g in result.report.groups] == [5]


def test_a_conv_read_through_flatten_by_gemm_is_aligned() -> None:
    """Every other width of a convolution is a convolution's width, whoever reads it."""
    text = """g (float[N, 3, 4, 4] x) => (float[N, 5] y) {
        [conv] z = Conv(x, w, b)
        h = Relu(z)
        f = Flatten(h)
        [fc] y = Gemm<transB = 1>(f, v)
    }"""
    rows = builders.clustered(16, 28, 5)
    weights = {"w": rows[:, 1:].reshape(16, 3, 3, 3), "b": rows[:, 0].copy(), "v": builders.random(5, 16 * 4)}
    result = oc.condense(builders.build(text, weights), oc.Options(align=8))
    assert [g.width_after for g in result.report.groups] == [8]


def test_aligned_lossless_stays_exact() -> None:
    result = oc.condense(builders.convnet((3, 16, 16), clusters=5), oc.Options(lossless=True, align=8))
    assert [g.width_after for g in result.report.groups] == [8, 8]
    assert result.report.verification is not None
    assert result.report.verification.approximation_error < 1e-5


def test_what_was_held_back_is_of_the_twin_that_a_tolerance_chose() -> None:
    """On the way to it others are built: what alignment held back in those is nothing that --align 1 would make."""
    model = builders.convnet((3, 24, 24), clusters=5, noise=0.02)
    chosen, free = (
        oc.condense(model, oc.Options(threshold=0.6, merge="ratio", tolerance=0.003, align=align)) for align in (8, 1)
    )
    assert [g.width_after for g in chosen.report.groups] == [g.width_after for g in free.report.groups] == [24, 24]
    assert [g.held_back for g in chosen.report.groups] == [0, 0]
    assert chosen.report.alignment.advice is None
