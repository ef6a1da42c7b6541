"""Tables of embeddings that make logits, too: held once, and of low rank as a pair that both readers share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.lossless import LOSSLESS
from support.planted.net import Array, Net, assert_close, run

from onnx_condense import Options, analyze, condense
from onnx_condense.merging.plan import Plan
from onnx_condense.planning import tying

WORDS, WIDTH, RANK, PLACES = 60, 16, 5, 4


def language(form: str, rank: int = WIDTH, last: str = "matmul", normalized: bool = True) -> onnx.ModelProto:
    """Words, a layer around which a sum goes, and logits from the same table. form: how that stands in the file."""
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", PLACES]))
    table = (net.normal(WORDS, rank) @ net.normal(rank, WIDTH)).astype(np.float32) / 4
    words = net.constant(table, "words")
    stream = net.node("Gather", words, "ids")
    made = net.matmul("out", net.node("Relu", net.matmul("in", stream, net.normal(8, WIDTH))), net.normal(WIDTH, 8))
    stream = net.node("Add", stream, made)
    if normalized:
        ones = net.constant(np.ones(WIDTH)), net.constant(np.zeros(WIDTH))
        stream = net.node("LayerNormalization", stream, *ones)
    if last == "gemm":
        rows = net.node("Reshape", stream, net.ints(-1, WIDTH))
        read = words if form == "same" else net.constant(table.T, "copy")
        return net.build(net.node("Gemm", rows, read, name="head", transB=int(form == "same")))
    read = net.node("Transpose", words) if form == "same" else net.constant(table.T, "copy")
    return net.build(net.node("MatMul", stream, read, name="head"))


def size(model: onnx.ModelProto) -> int:
    """Numbers of the tables and what stands for them."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.name.startswith(("words", "copy")))


def logits(model: onnx.ModelProto) -> Array:
    ids = np.random.default_rng(1).integers(0, WORDS, (3, PLACES))
    return run(model, {"ids": ids})[0]


@pytest.mark.parametrize("last", ["matmul", "gemm"])
@pytest.mark.parametrize("form", ["same", "copied"])
def test_a_table_of_low_rank_is_one_pair_for_both_readers(form: str, last: str, tmp_path: Path) -> None:
    model = language(form, RANK, last)
    result = condense(model, LOSSLESS)
    onnx.checker.check_model(result.model, full_check=True)
    assert size(result.model) == (WORDS + WIDTH) * RANK
    assert [tie.rank for tie in result.report.ties] == [RANK]
    assert_close(model, result.model, 2e-6)
    result.plan.save(tmp_path / "plan.json")
    again = condense(model, replay=Plan.load(tmp_path / "plan.json"))
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_an_error_of_ours_costs_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tying, "low_rank", broken)
    model = language("copied", RANK)
    result = condense(model, LOSSLESS)
    assert [tie.rank for tie in result.report.ties] == [None]
    assert (logits(result.model) == logits(model)).all()


def test_a_transposed_copy_is_made_of_the_table() -> None:
    model = language("copied")
    small = condense(model, LOSSLESS).model
    assert size(small) == WORDS * WIDTH
    assert (logits(small) == logits(model)).all()
    assert [tie.copies for tie in analyze(model).ties] == [("copy",)]


def test_a_budget_counts_the_copy() -> None:
    """Which is more than what is asked for: nothing else goes."""
    model = language("copied")
    result = condense(model, Options(budget=("params", 0.7), align=1))
    assert size(result.model) == WORDS * WIDTH
    assert all(group.width_after == group.width_before for group in result.report.groups)
    narrow = condense(model, Options(budget=("params", 0.55), align=1)).report
    assert narrow.output is not None
    assert narrow.output.parameters <= 0.55 * narrow.input.parameters


def test_what_is_another_table_stays() -> None:
    model = language("copied")
    (copy,) = (tensor for tensor in model.graph.initializer if tensor.name == "copy")
    value = onnx.numpy_helper.to_array(copy).copy()
    value[0, 0] += 1
    copy.CopyFrom(onnx.numpy_helper.from_array(value, "copy"))
    assert not condense(model, LOSSLESS).report.ties


def test_copies_of_which_channels_leave_stay_copies() -> None:
    """Where nothing binds the stream, each table loses the channels that it need not have."""
    model = language("copied", RANK, normalized=False)
    assert not condense(model, LOSSLESS).report.ties


def test_readers_that_know_no_pair_keep_the_table() -> None:
    """And an output, and modules of a caller, keep theirs."""
    for op, shape in (("ReduceSum", [1, 1]), ("Transpose", [WIDTH, WORDS])):
        model = language("same", RANK)
        model.graph.node.append(helper.make_node(op, ["words"], ["beside"]))
        model.graph.output.append(helper.make_tensor_value_info("beside", TensorProto.FLOAT, shape))
        assert size(condense(model, LOSSLESS).model) == WORDS * WIDTH
    only = Options(lossless=True, align=1, widths_only=True)
    assert size(condense(language("copied"), only).model) == 2 * WORDS * WIDTH
