"""Reasons as values: what they say, and where numbers are stated in which opset."""

from __future__ import annotations

import onnx
import pytest

from onnx_condense.operators.reasons import Because, Reason, with_article
from onnx_condense.operators.versions import INPUTS, input_for


def test_a_reason_behind_a_reason() -> None:
    read = Because(Reason.READ, with_article("Softmax"), Because(Reason.MIXES))
    assert str(read) == "is read by a Softmax, which mixes channels"
    alike = Because(Reason.ALIKE, why=read)
    assert str(alike).endswith("groups or heads: it is read by a Softmax, which mixes channels")
    assert (read.root, alike.root, Because(Reason.OUTPUT).root) == (Reason.MIXES, Reason.MIXES, Reason.OUTPUT)


@pytest.mark.parametrize("reason", Reason)
def test_a_sentence_has_no_other_gaps(reason: Reason) -> None:
    text = str(Because(reason, "an Add", Because(Reason.MIXES)))
    assert text == reason.value.replace("{at}", "an Add").replace("{why}", "mixes channels")
    assert "{" not in text


def test_articles() -> None:
    names = ("Add", "Unsqueeze", "Unique", "LSTM", "GRU")
    assert [with_article(name) for name in names] == ["an Add", "an Unsqueeze", "a Unique", "an LSTM", "a GRU"]


STATED = [(operator, name, opset) for operator, name in INPUTS for opset in range(5, 24)]


@pytest.mark.parametrize(("operator", "name", "opset"), STATED)
def test_inputs_are_those_of_the_standard(operator: str, name: str, opset: int) -> None:
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == operator and s.domain == ""]
    known = [s for s in schemas if s.since_version <= opset]
    if not known:
        pytest.skip("not there yet")
    schema = max(known, key=lambda s: s.since_version)
    inputs = [{"constant_value": "value"}.get(i.name, i.name) for i in schema.inputs]
    at = input_for(operator, name, opset)
    assert schema.deprecated or at == (inputs.index(name) if name in inputs else None)
