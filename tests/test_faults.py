"""An error that nobody foresaw costs the layer, or the group, where it happens; the rest is condensed, and right."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from support.cli import Cli, Save
from support.lossless import LOSSLESS
from support.planted.cases import (
    EXACT,
    FULL,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net, assert_close, widths

from onnx_condense import Options, analyze, condense
from onnx_condense.cli.main import DEBUG
from onnx_condense.errors import InputError
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import Contraction
from onnx_condense.operators.moves import Slice
from onnx_condense.operators.table import TABLE
from onnx_condense.planning import readers, thresholds
from onnx_condense.refitting import calibrate, refit
from onnx_condense.rewriting import rules
from onnx_condense.tracing import shuffles, tracer

LAYERS = ("one", "two", "three")


def chain(tied: bool = False) -> onnx.ModelProto:
    """Three layers with copies, a Sigmoid behind the first, a Slice behind the second."""
    net = Net()
    data = net.input("batch", 6)
    hidden = net.node("Sigmoid", net.dense("one", data, *planted_rows(net, "equal", 6)))
    rows, bias = planted_rows(net, "equal", FULL)
    hidden = net.node("Relu", net.dense("two", hidden, rows, bias))
    hidden = net.node("Slice", hidden, net.ints(0), net.ints(FULL), net.ints(1))
    rows = net.constant(planted_rows(net, "equal", FULL)[0].T, "three.weight")
    hidden = net.node("Relu", net.node("MatMul", hidden, rows, name="three"))
    if tied:
        hidden = net.node("Relu", net.node("MatMul", hidden, rows, name="four"))
    return net.build(net.dense("last", hidden, planted_columns(net, "equal", 4)))


def failing(wrapped: Callable[..., Any], when: Callable[..., bool], late: bool = False) -> Callable[..., Any]:
    """A function that fails on some arguments, at its beginning or when all is done."""

    def wrapper(*args: Any, **named: Any) -> Any:
        result = wrapped(*args, **named) if late else None
        if when(*args):
            raise ZeroDivisionError("planted\non two lines")
        return result if late else wrapped(*args, **named)

    return wrapper


def kept(model: onnx.ModelProto, options: Options = LOSSLESS) -> tuple[dict[str, int], list[str]]:
    """Widths of the layers that were condensed and the warnings; the function is the same where it must be."""
    result = condense(model, options)
    onnx.checker.check_model(result.model, full_check=True)
    if options.lossless:
        assert_close(model, result.model, 2e-5)
    return {name: width for name, width in widths(result.model).items() if name != "last"}, list(result.report.warnings)


def of_layer(name: str) -> Callable[..., bool]:
    return lambda *args: any(name in getattr(arg, "layers", ()) for arg in args)


def about_two(*args: Any) -> bool:
    """Whether it is about the second layer's group, or how that compares."""
    return of_layer("two")(*args, *(getattr(arg, "group", None) for arg in args))


SAID = "ran into an error of this program (ZeroDivisionError: planted), please report it"


def test_a_row_of_the_table_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain()
    assert max(kept(model)[0].values()) == EXACT
    monkeypatch.setitem(TABLE, ("", "Sigmoid"), failing(TABLE["", "Sigmoid"], lambda view: True))
    found, (warning,) = kept(model)
    assert found == {"one": FULL, "two": EXACT, "three": EXACT}
    assert "one (ZeroDivisionError: planted)" in warning
    assert f"is read by a Sigmoid, which {SAID}" in {refusal.reason for refusal in analyze(model).refusals}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("layer", "tied"), [*((name, False) for name in LAYERS), ("three", True), ("four", True)])
def test_a_rule_of_the_tracer_that_fails(monkeypatch: pytest.MonkeyPatch, layer: str, tied: bool, late: bool) -> None:
    """Even when it has said what there is to say already: the layer is as one of an operator without a row."""
    rule = failing(tracer.RULES[Contraction], lambda walk, place, action: place.node.name == layer, late)
    monkeypatch.setitem(tracer.RULES, Contraction, rule)
    found, warnings = kept(chain(tied))
    reads = {"two": "one", "three": "two", "four": "three"}.get(layer)
    assert all(found[name] == FULL for name in (layer, reads) if name in found)
    assert len(warnings) == (layer in found)
    untouched = {"one"} if tied else set(LAYERS) - {layer, reads}
    assert all(found[name] <= EXACT for name in untouched)
    refused = {name: r.reason for r in analyze(chain(tied)).refusals for name in r.layers}
    assert layer not in found or refused[layer] == SAID


def test_a_search_for_shuffles_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffles, "find_shuffles", failing(shuffles.find_shuffles, lambda traced: True))
    assert max(kept(chain())[0].values()) == EXACT


@pytest.mark.parametrize("options", [LOSSLESS, Options(threshold=0.999, align=1), Options(tolerance=1e-3, align=1)])
@pytest.mark.parametrize("step", ["judge", "plan_group"])
def test_a_group_that_cannot_be_judged(monkeypatch: pytest.MonkeyPatch, options: Options, step: str) -> None:
    monkeypatch.setattr(thresholds, step, failing(getattr(thresholds, step), about_two))
    found, warnings = kept(chain(), options)
    assert found["two"] == FULL
    assert max(found["one"], found["three"]) == EXACT
    assert any("two (ZeroDivisionError: planted)" in warning for warning in warnings)
    analysis = analyze(chain(), options)
    assert [group.layers for group in analysis.groups] == [("one",), ("three",)]
    assert SAID in {r.reason for r in analysis.refusals if r.layers == ("two",)}


def test_a_merge_that_fails_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Twin, "apply", failing(Twin.apply, of_layer("two"), late=True))
    found, (warning,) = kept(chain())
    assert found["two"] == FULL
    assert max(found["one"], found["three"]) == EXACT
    assert "two (ZeroDivisionError: planted)" in warning


def test_a_rule_of_the_rewriter_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.RULES, Slice, failing(rules.RULES[Slice], lambda *args: True))
    found, (warning,) = kept(chain())
    assert found["two"] == FULL
    assert max(found["one"], found["three"]) == EXACT
    assert "slice" in warning
    assert "ZeroDivisionError: planted" in warning


@pytest.mark.parametrize("step", ["judge", "plan_keeping", "eliminate"])
def test_a_budget_takes_from_the_others(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    asked: list[int] = []

    def second(*args: Any) -> bool:
        asked.append(1)
        return len(asked) == 2

    if step == "eliminate":
        monkeypatch.setattr(readers, step, failing(readers.eliminate, second))
    else:
        monkeypatch.setattr(thresholds, step, failing(getattr(thresholds, step), about_two))
    found, warnings = kept(chain(), Options(budget=("params", 0.8), align=1))
    assert found["two"] == FULL
    assert min(found["one"], found["three"]) < FULL
    assert any("two (ZeroDivisionError: planted)" in warning for warning in warnings)


def test_a_refit_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Its consumer keeps what the merges gave it."""
    for module, name in ((refit, "_refit"), (calibrate, "_calibrate_one")):
        monkeypatch.setattr(module, name, failing(getattr(module, name), lambda *args: True))
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32))
    found, _ = kept(chain(), Options(threshold=0.7, align=1, calibration=inputs))
    assert max(found.values()) <= EXACT


def test_errors_that_a_caller_may_catch_end_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As does memory that is used up; what is caught is logged with its traceback."""
    for error in (InputError("no"), MemoryError()):

        def row(view: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setitem(TABLE, ("", "Sigmoid"), row)
        with pytest.raises(type(error)):
            condense(chain(), LOSSLESS)
    monkeypatch.setitem(TABLE, ("", "Sigmoid"), failing(len, lambda view: True))
    with caplog.at_level(logging.DEBUG, "onnx_condense.errors"):
        condense(chain(), LOSSLESS)
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: planted" in caplog.text


@pytest.mark.parametrize("debug", [False, True])
def test_the_program_shows_where(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    """With the environment variable, on standard error; the run ends well in any case, and logs are as before."""
    monkeypatch.setitem(TABLE, ("", "Sigmoid"), failing(TABLE["", "Sigmoid"], lambda view: True))
    if debug:
        monkeypatch.setenv(DEBUG, "1")
    logger = logging.getLogger("onnx_condense.errors")
    before = logger.level, list(logger.handlers)
    save(chain())
    ran = cli.run("m.onnx", "--lossless", "--align", "1")
    assert ran.code == 0
    assert (logger.level, logger.handlers) == before
    assert ("Traceback" in ran.err) is debug
    assert "one (ZeroDivisionError: planted)" in ran.err
