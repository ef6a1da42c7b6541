"""The algebra of stages: how they join, which rules they end with."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_condense.algebra.stages import Rule, Stage, activate, add, final_rules, multiply
from onnx_condense.algebra.vectors import Vectors
from onnx_condense.operators.answers import Kind

RNG = np.random.default_rng(0)


def leaf(key: int, width: int = 3, n: int = 4) -> Stage:
    return Stage(Vectors.of(RNG.standard_normal((n, width))), RNG.standard_normal((n, 1)), frozenset({key}))


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        (Rule.ANY, Rule.POSITIVE, Rule.POSITIVE),
        (Rule.ANY, Rule.ODD, Rule.ODD),
        (Rule.POSITIVE, Rule.ODD, Rule.EQUAL),
        (Rule.POSITIVE, Rule.EQUAL, Rule.EQUAL),
        (Rule.ODD, Rule.EQUAL, Rule.EQUAL),
        (Rule.ODD, Rule.ODD, Rule.ODD),
        (Rule.ANY, Rule.ANY, Rule.ANY),
    ],
)
def test_meet(one: Rule, other: Rule, result: Rule) -> None:
    """A ratio must be allowed by both: positive and ±1 leave only 1."""
    assert one.meet(other) is result
    assert other.meet(one) is result


@pytest.mark.parametrize(
    ("kinds", "rule"),
    [
        ((), Rule.ANY),
        ((Kind.LINEAR,), Rule.ANY),
        ((Kind.HOMOGENEOUS,), Rule.POSITIVE),
        ((Kind.ABSOLUTE,), Rule.POSITIVE),
        ((Kind.UNBOUNDED,), Rule.POSITIVE),
        ((Kind.ODD,), Rule.ODD),
        ((Kind.BOUNDED,), Rule.EQUAL),
        ((Kind.HOMOGENEOUS, Kind.ODD), Rule.EQUAL),
        ((Kind.ODD, Kind.HOMOGENEOUS), Rule.EQUAL),
    ],
)
def test_rules_of_a_single_stage(kinds: tuple[Kind, ...], rule: Rule) -> None:
    stages = [leaf(0)]
    for kind in kinds:
        stages = activate(stages, kind)
    (stage,) = final_rules(stages)
    assert stage.rule is rule


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Kind.HOMOGENEOUS, Rule.POSITIVE),
        (Kind.UNBOUNDED, Rule.EQUAL),
        (Kind.BOUNDED, Rule.EQUAL),
        (Kind.ODD, Rule.EQUAL),
    ],
)
def test_stages_in_series_must_be_equal_behind_what_is_not_homogeneous(kind: Kind, rule: Rule) -> None:
    """Of two multiplied stages the one that passed a function is bound by it, the other stays free."""
    stages = final_rules(multiply([leaf(0)], activate([leaf(1)], kind)))
    rules = {next(iter(f.leaves)): f.rule for f in stages}
    assert rules == {0: Rule.ANY, 1: rule}


def test_added_producers_are_one_concatenated_vector() -> None:
    a, b = leaf(0, 3), leaf(1, 2)
    (joined,) = add([a], [b])
    np.testing.assert_array_equal(joined.vectors.array(), np.hstack([a.vectors.array(), b.vectors.array()]))
    np.testing.assert_array_equal(joined.bias, a.bias + b.bias)
    assert joined.leaves == a.leaves | b.leaves


def test_added_producers_behind_functions_keep_their_biases_apart() -> None:
    a, b = activate([leaf(0)], Kind.HOMOGENEOUS), activate([leaf(1)], Kind.HOMOGENEOUS)
    (joined,) = add(a, b)
    assert joined.rule is Rule.POSITIVE
    np.testing.assert_array_equal(joined.with_bias()[:, :8], np.hstack([a[0].with_bias(), b[0].with_bias()]))


def test_a_signal_added_to_its_own_function_is_one_stage() -> None:
    """x + relu(x): one vector, the stricter rule."""
    x = leaf(0)
    (joined,) = add([x], activate([x], Kind.HOMOGENEOUS))
    assert joined.vectors.shape == x.vectors.shape
    assert joined.rule is Rule.POSITIVE


def test_multiplied_stages_stay_apart() -> None:
    found = multiply([leaf(0)], [leaf(1)])
    assert [f.leaves for f in found] == [frozenset({0}), frozenset({1})]
    assert all(not f.open for f in found)


def test_a_gate_of_its_own_signal_is_one_unbounded_stage() -> None:
    """x · sigmoid(x) is Silu: the paper's ratio; x · x and tanh(x) · sigmoid(x) scale otherwise: equal
    rows.
    """
    x = leaf(0)
    (silu,) = multiply([x], activate([x], Kind.BOUNDED))
    assert silu.rule is Rule.POSITIVE
    (square,) = multiply([x], [x])
    assert square.rule is Rule.EQUAL
    (product,) = multiply(activate([x], Kind.ODD), activate([x], Kind.BOUNDED))
    assert product.rule is Rule.EQUAL


def test_bias_of_a_later_stage_is_measured_by_the_norms_before_it() -> None:
    """taps · x + bias is s · (taps · x / s + bias / s): a scaled channel needs a scaled bias."""
    first = leaf(0)
    taps = Stage(
        Vectors.of(RNG.standard_normal((4, 9))),
        RNG.standard_normal((4, 1)),
        frozenset({1}),
        open=True,
        prefix=(first.leaves,),
    )
    _, second = final_rules([first, taps])
    norms = np.linalg.norm(first.with_bias(), axis=1, keepdims=True)
    np.testing.assert_allclose(second.bias, taps.bias / norms)


def test_with_bias() -> None:
    stage = leaf(0)
    np.testing.assert_array_equal(stage.with_bias(), np.hstack([stage.vectors.array(), stage.bias]))
