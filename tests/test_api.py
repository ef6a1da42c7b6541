"""The public API: a short list, frozen, documented, silent."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import logging
import typing
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import OUT, Cli, Save, snapshot

import onnx_condense as oc
from onnx_condense.model.protos import serialize
from onnx_condense.report.values import HeadReport, TieReport

PUBLIC = [
    "Analysis",
    "Benchmark",
    "CondenseError",
    "EvaluationError",
    "Images",
    "InputError",
    "LimitError",
    "Options",
    "Pixels",
    "Plan",
    "PlanError",
    "Report",
    "Result",
    "TrainerError",
    "UsageError",
    "Verification",
    "VerificationError",
    "WorkerError",
    "__version__",
    "analyze",
    "benchmark",
    "condense",
    "rewrite",
    "verify",
]
FROZEN = [oc.Analysis, oc.Benchmark, oc.Options, oc.Plan, oc.Report, oc.Result, oc.Verification]
FAILURES = (oc.EvaluationError, oc.TrainerError, oc.VerificationError, oc.WorkerError)
ERRORS = dict.fromkeys((oc.InputError, oc.LimitError, oc.UsageError, oc.PlanError), 2) | dict.fromkeys(FAILURES, 1)
ERRORS |= {oc.EvaluationError: 1}
FUNCTIONS = [oc.analyze, oc.benchmark, oc.condense, oc.rewrite, oc.verify]

MODEL = builders.mlp((8, 16, 16, 3), clusters=(5, 4))


def test_the_public_names() -> None:
    assert sorted(oc.__all__) == PUBLIC
    assert all(hasattr(oc, name) for name in PUBLIC)


@pytest.mark.parametrize("name", [n for n in PUBLIC if n != "__version__"])
def test_every_public_name_is_documented(name: str) -> None:
    documentation = getattr(oc, name).__doc__
    assert documentation
    assert not documentation.startswith(f"{name}("), "dataclasses document themselves with a signature"


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_every_public_function_is_typed(function: object) -> None:
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    assert parameters.keys() | {"return"} == hints.keys()


def test_the_package_is_marked_as_typed() -> None:
    assert Path(oc.__file__).with_name("py.typed").exists()


def test_there_is_one_version() -> None:
    assert oc.__version__ == importlib.metadata.version("onnx-condense")


@pytest.mark.parametrize("kind", FROZEN, ids=lambda k: k.__name__)
def test_values_are_frozen(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_values_inside_values_are_frozen() -> None:
    result = oc.condense(MODEL)
    assert result.report.verification is not None
    parts = [
        *(
            result.report.input,
            result.report.groups[0],
            result.report.refusals[0],
            result.report.verification,
        ),
        *(result.plan.groups[0], result.plan.groups[0].reads[0], oc.analyze(MODEL).groups[0]),
    ]
    for part in parts:
        name = dataclasses.fields(part)[0].name  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)


@pytest.mark.parametrize(("error", "code"), ERRORS.items(), ids=lambda e: getattr(e, "__name__", str(e)))
def test_errors_have_one_base_and_an_exit_code(error: type[oc.CondenseError], code: int) -> None:
    assert issubclass(error, oc.CondenseError)
    assert error.exit_code == code


def test_every_error_class_is_public() -> None:
    assert set(oc.CondenseError.__subclasses__()) == set(ERRORS)


# ---------------------------------------------------------------------- condense, rewrite, analyze


def test_condense_takes_paths_and_models_alike(save: Save) -> None:
    path = save(MODEL)
    before = snapshot(path.parent)
    results = [oc.condense(model) for model in (path, str(path), onnx.load(path))]
    assert {r.report.changed for r in results} == {True}
    assert [r.plan.groups for r in results[1:]] == [results[0].plan.groups] * 2
    assert serialize(results[0].model) == serialize(results[1].model)
    assert snapshot(path.parent) == before, "the library writes no files"


def test_the_condensed_model_runs_like_the_original() -> None:
    result = oc.condense(MODEL)
    data = {"x": builders.random(7, 8, seed=5)}
    assert oc.verify(MODEL, result.model, data).error < 1e-5
    sizes = [builders.weight(result.model, name).shape for name in ("w0", "w1", "w2")]
    assert sizes == [(5, 8), (4, 5), (3, 4)]


def test_rewrite_is_what_condense_does() -> None:
    for options in (oc.Options(), oc.Options(lossless=True), oc.Options(merge="delete")):
        result = oc.condense(MODEL, options)
        assert serialize(oc.rewrite(MODEL, result.plan)) == serialize(result.model)
        again = oc.condense(MODEL, replay=result.plan)
        assert serialize(again.model) == serialize(result.model)
        assert again.plan == result.plan


def test_rewrite_with_an_empty_plan_is_the_input() -> None:
    model = builders.mlp((8, 8, 3))
    result = oc.condense(model)
    assert not result.report.changed
    assert serialize(oc.rewrite(model, result.plan)) == serialize(result.model) == serialize(model)


def test_a_dry_run_plans_and_verifies_nothing() -> None:
    result = oc.condense(MODEL, dry_run=True)
    assert serialize(result.model) == serialize(MODEL)
    assert result.report.verification is None
    assert result.report.output is None
    assert result.plan.groups == oc.condense(MODEL).plan.groups


def test_a_replay_above_the_tolerance_is_refused() -> None:
    plan = oc.condense(MODEL, oc.Options(threshold=0.88, merge="delete")).plan
    with pytest.raises(oc.VerificationError, match="--tolerance"):
        oc.condense(MODEL, oc.Options(tolerance=1e-3), replay=plan)


def test_progress_names_the_stages_in_order() -> None:
    stages: list[str] = []
    oc.condense(MODEL, progress=stages.append)
    wanted = ["load", "trace", "plan", "rewrite", "verify"]
    positions = [max(i for i, stage in enumerate(stages) if stage == name) for name in wanted]
    assert positions == sorted(positions)


def test_analyze_says_widths_share_and_reasons() -> None:
    analysis = oc.analyze(MODEL)
    assert [(g.layers, g.width) for g in analysis.groups] == [(("fc0",), 16), (("fc1",), 16)]
    for group, width in zip(analysis.groups, (5, 4), strict=True):
        assert dict(group.widths) == dict.fromkeys((0.999, 0.95, 0.88, 0.7), width)
        assert group.highest_cosine == pytest.approx(1, abs=1e-6)
    assert analysis.share == 1.0, "fc2 is sliced too: it reads fc1"
    assert [r.layers for r in analysis.refusals] == [("fc2",)]
    assert analysis.model.parameters == 128 + 16 + 256 + 16 + 48 + 3
    json.dumps(analysis.to_json(), allow_nan=False)


def test_analyze_share_leaves_out_what_nothing_slices() -> None:
    """The last layer reads a Softmax over all channels of the middle one."""
    text = """g (float[N, 8] x) => (float[N, 3] y) {
        [fc0] z = Gemm<transB = 1>(x, w0)
        h = Relu(z)
        [fc1] m = Gemm<transB = 1>(h, w1)
        s = Softmax(m)
        [fc2] y = Gemm<transB = 1>(s, w2)
    }"""
    weights = {f"w{i}": builders.random(*shape) for i, shape in enumerate([(8, 8), (6, 8), (3, 6)])}
    assert oc.analyze(builders.build(text, weights)).share == pytest.approx((64 + 48) / (64 + 48 + 18))


def test_analyze_ignores_alignment() -> None:
    analysis = oc.analyze(builders.convnet((3, 16), clusters=5))
    assert analysis.groups[0].widths[0.88] == 5


def test_globs_in_the_library() -> None:
    with pytest.raises(oc.UsageError, match="nothing_like_it"):
        oc.condense(MODEL, oc.Options(include=("nothing_like_it",)))
    result = oc.condense(MODEL, oc.Options(exclude=("fc0",)))
    assert [g.layers for g in result.plan.groups] == [("fc1",)]


def test_data_in_the_library() -> None:
    data = np.abs(builders.random(6, 8))
    verification = oc.condense(MODEL, oc.Options(data={"x": data})).report.verification
    assert verification is not None
    assert (verification.samples, verification.generated) == (6, False)


# ---------------------------------------------------------------------- silence


def test_the_library_logs_and_never_prints(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    noisy = builders.mlp((8, 24, 24, 4), clusters=(6, 5), noise=0.2)
    with caplog.at_level(logging.DEBUG, logger="onnx_condense"):
        result = oc.condense(noisy, oc.Options(threshold=0.5))
        oc.analyze(noisy)
        oc.verify(noisy, result.model)
        oc.rewrite(noisy, result.plan)
        with pytest.raises(oc.CondenseError):
            oc.condense("no such file.onnx")
    assert capfd.readouterr() == ("", "")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == list(result.report.warnings)
    assert len(warnings) == 1
    assert "--tolerance" in warnings[0]
    assert {r.name.split(".")[0] for r in caplog.records} == {"onnx_condense"}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_weights_that_are_not_finite(value: float) -> None:
    """No warning, no crash, and never a main neuron that poisons others; what cannot be compared stays."""
    model = builders.mlp((8, 16, 3), clusters=4)
    rows = builders.weight(model, "w0").copy()
    rows[2, 3] = value
    builders.set_weight(model, "w0", rows)
    result = oc.condense(model)
    assert oc.verify(model, result.model).error < 1e-5
    assert all(2 not in (j, m) for g in result.plan.groups for j, m in enumerate(g.main) if j != m)


# ---------------------------------------------------------------------- a result, saved and looked at


def test_a_result_saves_what_the_command_line_writes(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.ok("m.onnx")
    result = oc.condense("m.onnx")
    assert result.save("again.onnx") == Path(OUT).stat().st_size
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes()
    with pytest.raises(oc.UsageError, match=r"m\.onnx is the model that was condensed"):
        result.save(Path("m.onnx"))
    with pytest.raises(oc.InputError, match="nowhere"):
        result.save("nowhere/m.onnx")


def test_a_result_of_a_model_that_stays_saves_the_input(cli: Cli, save: Save) -> None:
    path = save(builders.mlp((8, 8, 3)))
    oc.condense(path, oc.Options(lossless=True)).save("same.onnx")
    assert Path("same.onnx").read_bytes() == path.read_bytes()


def test_what_is_returned_is_shown_in_a_line() -> None:
    model = builders.mlp((8, 16, 3), clusters=4)
    result = oc.condense(model, oc.Options(threshold=0.9))
    assert repr(result).startswith("<Result: 195 → 51 parameters, error ")
    assert repr(result.report).endswith(" on generated inputs>")
    assert repr(oc.analyze(model)) == "<Analysis: 1 groups that can shrink, 1 layers that stay>"


def test_a_notebook_shows_tables_and_bars() -> None:
    pytest.importorskip("jinja2")
    model = builders.mlp((8, 16, 3), clusters=4)
    model.graph.node[0].name = "<script>alert(1)</script>"
    shown = oc.condense(model, oc.Options(threshold=0.9))._repr_html_()
    assert shown is not None
    assert "4 of 16 channels stay" in shown
    assert "12 merged" in shown
    assert "<script>" not in shown


def test_a_notebook_tells_of_pairs_heads_and_tables() -> None:
    pytest.importorskip("jinja2")
    low = builders.random(40, 2) @ builders.random(2, 30, seed=1)
    model = builders.build("g (float[N, 40] x) => (float[N, 30] y) { [low] y = MatMul(x, w) }", {"w": low})
    result = oc.condense(model, oc.Options(lossless=True))
    shown = result._repr_html_()
    assert shown is not None
    assert "Pair of factors: low, rank 30 → 2." in shown
    heads, ties = (HeadReport(("q", "k", "v"), 4, 3),), (TieReport("words", ("copy",), 5),)
    shown = dataclasses.replace(result, report=dataclasses.replace(result.report, heads=heads, ties=ties))._repr_html_()
    assert shown is not None
    assert "Whole heads: 4 → 3 of q, k, v." in shown
    assert "Held once: words, which also makes copy, as a pair of rank 5." in shown
