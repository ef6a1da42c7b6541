"""What is a channel's vector: constants of a BatchNormalization beside a row, and channels that hardly vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.net import Net, signed_feed

import onnx_condense as oc
from onnx_condense import Options, condense

MERGES = ("ratio", "delete", "auto", "moments")


def normalized(rows: Any, shift: Any, scale: Any = None, function: str = "Relu", seed: int = 0) -> onnx.ModelProto:
    """A Conv with these rows [n, 27], BatchNormalization with this shift [n], a function, a Conv that reads them."""
    net, n = Net(seed=seed), len(rows)
    hidden = net.conv("first", net.input("batch", 3, 8, 8), rows.reshape(n, 3, 3, 3).astype(np.float32))
    scale = np.ones(n) if scale is None else scale
    hidden = net.batchnorm(hidden, scale, shift, np.zeros(n), np.full(n, 27.0))
    hidden = net.node(function, hidden)
    return net.build(net.conv("second", hidden, net.normal(5, n, 1, 1), net.normal(5)))


def rows_of(n: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((n, 27))


def width(result: oc.Result) -> int:
    return result.report.groups[0].width_after


@pytest.mark.parametrize("merge", MERGES)
def test_constants_that_dwarf_the_rows_make_none_alike(merge: str) -> None:
    """As in EfficientNet-Lite0: every row with its bias points the same way."""
    model = normalized(rows_of(12), np.full(12, 20.0))
    assert width(condense(model, Options(threshold=0.88, merge=merge, align=1))) == 12  # type: ignore[arg-type]


@pytest.mark.parametrize("merge", ["auto", "moments"])
def test_so_do_those_that_are_folded_in_the_file(merge: str) -> None:
    model = normalized(rows_of(12), np.full(12, 20.0))
    options = Options(threshold=0.88, merge=merge, align=1, fold_batchnorm=True)  # type: ignore[arg-type]
    assert width(condense(model, options)) == 12


def test_the_papers_vector_is_the_kernel() -> None:
    rows = rows_of(8)
    rows[5] = 2 * rows[2]
    model = normalized(rows, np.random.default_rng(3).standard_normal(8))
    (group,) = condense(model, Options(threshold=0.99, merge="ratio", align=1)).plan.groups
    assert group.main == (0, 1, 2, 3, 4, 2, 6, 7)
    assert group.reads[0].ratio[5] == pytest.approx(2)


def test_constants_go_where_the_merge_puts_them() -> None:
    """On a linear path a consumer's bias takes what two equal kernels differ by."""
    rows = rows_of(8)
    rows[5] = 2 * rows[2]
    model = normalized(rows, np.random.default_rng(3).standard_normal(8), function="Identity")
    result = condense(model, Options(threshold=0.99, merge="ratio", align=1))
    assert width(result) == 7
    assert oc.verify(model, result.model, signed_feed(model, batch=4)).outputs[0].relative_l2 < 1e-5


def test_equal_kernels_with_other_constants_are_no_exact_merge() -> None:
    rows, shift = rows_of(8), np.random.default_rng(3).standard_normal(8)
    rows[5] = rows[2]
    assert width(condense(normalized(rows, shift), LOSSLESS)) == 8
    shift[5] = shift[2]
    assert width(condense(normalized(rows, shift), LOSSLESS)) == 7


def test_channels_that_hardly_vary_go() -> None:
    """As weight decay leaves them: scale and shift of next to nothing, kernels of all directions."""
    scale, shift = np.full(8, 1.0), np.random.default_rng(3).standard_normal(8)
    scale[[1, 6]], shift[[1, 6]] = 1e-4, (-1e-3, 0.5)
    model = normalized(rows_of(8), shift, scale)
    result = condense(model, Options(threshold=0.88, align=1))
    assert [i for i, main in enumerate(result.plan.groups[0].main) if main < 0] == [1, 6]
    assert oc.verify(model, result.model, signed_feed(model, batch=4)).outputs[0].relative_l2 < 1e-3


def test_channels_that_hardly_vary_stay_where_a_consumer_minds() -> None:
    scale = np.full(8, 1.0)
    scale[1] = 1e-4
    model = normalized(rows_of(8), np.zeros(8), scale)
    weight = next(t for t in model.graph.initializer if t.name == "second.weight")
    columns = onnx.numpy_helper.to_array(weight).copy()
    columns[:, 1] *= 1e4
    weight.CopyFrom(onnx.numpy_helper.from_array(columns, weight.name))
    assert width(condense(model, Options(threshold=0.88, align=1))) == 8


def test_what_an_exact_or_the_papers_merge_keeps() -> None:
    """Channels that hardly vary go by the methods that refit consumers alone."""
    scale, shift = np.full(8, 1.0), np.full(8, 0.5)
    scale[1] = 1e-4
    model = normalized(rows_of(8), shift, scale)
    for options in (LOSSLESS, Options(threshold=0.88, merge="ratio", align=1)):
        assert width(condense(model, options)) == 8
