"""Reasons as values: what they say."""

from __future__ import annotations

import pytest

from onnx_condense.operators.reasons import Because, Reason, with_article


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
