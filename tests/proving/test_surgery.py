"""The proof refuses whatever is not the planned model, also where outputs alone are blind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import builders
from support.planted.cases import planted_columns, planted_rows
from support.planted.net import Net
from support.proofs import condensed, disturbed, proof

from onnx_condense import Options, VerificationError
from onnx_condense.proving.surgery import Limits
from onnx_condense.rewriting.writer import Written


def all_at(limit: float) -> Limits:
    """The same surgery limit for every output."""
    return lambda noise: {output.name: limit for output in noise.outputs}


def weight_names(written: Written) -> list[str]:
    return [t.name for t in written.model.graph.initializer if len(t.dims) > 1]


def test_a_right_rewrite_passes() -> None:
    options = Options(threshold=0.9)
    opened, small, twin = condensed(builders.mlp((8, 16, 16, 3), clusters=4), options)
    report = proof(opened, small, twin, options)
    assert report.surgery_error <= report.surgery_limit
    assert report.inner_error < 1e-5


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_changed_weight_is_refused(layer: int) -> None:
    options = Options(threshold=0.9)
    opened, small, twin = condensed(builders.mlp((8, 16, 16, 3), clusters=4), options)
    wrong = disturbed(small, weight_names(small)[layer], 0.01)
    with pytest.raises(VerificationError, match="surgery"):
        proof(opened, wrong, twin, options)


def test_intermediate_tensors_count_where_outputs_are_blind() -> None:
    """The last weight is zero: the output depends on nothing, yet a wrong layer before it is found."""
    model = builders.mlp((8, 16, 16, 3), clusters=4)
    last = [t for t in model.graph.initializer if len(t.dims) > 1][-1]
    last.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(last)), last.name))
    options = Options(threshold=0.9, merge="ratio")
    opened, small, twin = condensed(model, options)
    wrong = disturbed(small, weight_names(small)[1], 0.1)
    with pytest.raises(VerificationError, match="surgery"):
        proof(opened, wrong, twin, options)


def test_a_model_that_does_not_run_is_our_fault() -> None:
    options = Options(threshold=0.9)
    opened, small, twin = condensed(builders.mlp((8, 16, 3), clusters=4), options)
    model = onnx.ModelProto()
    model.CopyFrom(small.model)
    del model.graph.initializer[0]
    with pytest.raises(VerificationError, match="please report"):
        proof(opened, replace(small, model=model), twin, options)


def test_the_surgery_limit_must_be_met() -> None:
    options = Options(threshold=0.9)
    opened, small, twin = condensed(builders.mlp((8, 16, 3), clusters=4), options)
    with pytest.raises(VerificationError, match="nothing is written"):
        proof(opened, small, twin, options, all_at(-1.0))


def test_lossless_must_meet_the_surgery_limit() -> None:
    lossless = Options(lossless=True)
    opened, small, twin = condensed(builders.mlp((8, 16, 3), clusters=4), lossless)
    with pytest.raises(VerificationError, match="--lossless"):
        proof(opened, small, twin, lossless, all_at(1e-12))
    assert proof(opened, small, twin, Options(threshold=0.99), all_at(1e-12)).surgery_limit == 1e-12


def test_lossless_and_tolerance_are_promises() -> None:
    options = Options(threshold=0.5)
    opened, small, twin = condensed(builders.mlp((8, 16, 16, 3), clusters=4, seed=2), options)
    for broken in (Options(lossless=True), Options(threshold=0.5, tolerance=1e-9)):
        with pytest.raises(VerificationError):
            proof(opened, small, twin, broken)


@pytest.mark.parametrize(("function", "offset", "error"), [("Sigmoid", -7.0, 1e-4), ("Identity", 1e-3, 1e-7)])
def test_the_tails_of_a_bounded_function_have_an_absolute_error(function: str, offset: float, error: float) -> None:
    """1e-7 is rounding of a Sigmoid whose value is 1e-3; of a linear output of that size it is not."""
    net = Net()
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), *planted_rows(net, "equal", 6)))
    last = net.dense("consumer", hidden, 1e-4 * planted_columns(net, "equal", 1), np.full(1, offset))
    model = net.build(net.node("Reshape", net.node(function, last), net.ints(-1)))
    options = Options(lossless=True)
    opened, small, twin = condensed(model, options)
    wrong = disturbed(small, "consumer.bias", error)
    if function == "Sigmoid":
        assert proof(opened, wrong, twin, options).surgery_error == 0
    else:
        with pytest.raises(VerificationError, match="surgery"):
            proof(opened, wrong, twin, options)


def test_rounding_that_no_optimization_shows() -> None:
    """Nothing is fused, so the original is the same with optimizations and without; yet its last digits say nothing."""
    options = Options(threshold=0.99)
    opened, small, twin = condensed(builders.cancelling(), options)
    report = proof(opened, small, twin, options)
    assert report.noise < 1e-6
    assert 1e-5 < report.surgery_error < report.surgery_limit < 0.1
    wrong = disturbed(small, "w2", 1e-5)
    with pytest.raises(VerificationError, match="please report"):
        proof(opened, wrong, twin, options)


def test_rounding_breaks_no_promise() -> None:
    """What --lossless promises is not measured by what a unit in every weight would do."""
    options = Options(lossless=True)
    opened, small, twin = condensed(builders.cancelling(), options)
    with pytest.raises(VerificationError, match="--lossless changed the outputs"):
        proof(opened, small, twin, options)
