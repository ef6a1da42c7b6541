"""What is asked for that cannot be: one line that says what was expected, and nothing that hangs or is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import builders
from support.cli import OUT, Cli, Save, shell, snapshot

import onnx_condense as oc

MODEL = builders.mlp((8, 16, 3), clusters=4)

# ---------------------------------------------------------------------- files that are there


@pytest.mark.parametrize(
    "arguments",
    [
        ("m.onnx", "--plan", "precious"),
        ("m.onnx", "--report", "precious"),
        ("m.onnx", "-o", "precious"),
        ("m.onnx", "--plan", "precious", "--dry-run"),
        ("inspect", "m.onnx", "--report", "precious"),
    ],
)
def test_nothing_is_overwritten_unasked(cli: Cli, save: Save, arguments: tuple[str, ...]) -> None:
    save(MODEL)
    Path("precious").write_text("precious")
    assert "precious exists: replace it with --force" in cli.fails(2, *arguments)
    assert "precious" in cli.ok(*arguments, "--force").written


def test_a_figure_is_not_overwritten_unasked(cli: Cli) -> None:
    Path("precious.svg").write_text("precious")
    message = cli.fails(2, "auto", "--work", "w", "--status", "--plot", "precious.svg")
    assert "precious.svg exists: replace it with --force" in message


@pytest.mark.parametrize("option", ["-o", "--plan", "--report"])
def test_places_that_are_none(cli: Cli, save: Save, option: str) -> None:
    save(MODEL)
    Path("loop").symlink_to("loop")
    assert "loop" in cli.fails(2, "m.onnx", option, "loop", "--force")
    assert "too long" in cli.fails(2, "m.onnx", option, "x" * 300)
    assert "loop" in cli.fails(2, "loop")
    assert "too long" in cli.fails(2, "x" * 300)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [(("inspct", "m.onnx"), "inspect"), (("m.onnx", "--treshold", "1"), "--threshold"), (("verify", "-tol"), "--help")],
)
def test_what_may_have_been_meant(cli: Cli, save: Save, arguments: tuple[str, ...], meant: str) -> None:
    save(MODEL)
    assert meant in cli.fails(2, *arguments)


def test_the_last_lines_say_what_came_of_it(cli: Cli, save: Save) -> None:
    save(MODEL)
    summary, following = cli.ok("m.onnx").out.splitlines()[-2:]
    assert summary.startswith("3.8 times smaller (195 → 51 parameters), error ")
    assert summary.endswith(" on generated inputs.")
    assert following == f"Next: onnx-condense bench m.onnx {OUT}; --budget params=F for another size."
    assert " bench " not in cli.ok("m.onnx", "-o", os.devnull).out
    save(builders.mlp((8, 16, 3), clusters=4, noise=0.2))
    assert "; --calibration INPUTS.npz for less loss;" in cli.ok("m.onnx", "--threshold", "0.5", "--force").out
    np.savez("x.npz", x=builders.random(32, 8))
    assert "on given inputs" in cli.ok("m.onnx", "--threshold", "0.5", "--data", "x.npz", "--force").out


@pytest.mark.parametrize("width", [80, 120])
def test_help_names_every_command(cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        cli.run("--help")
    shown = cli.capfd.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert all(f"onnx-condense {name} " in shown for name in ("inspect", "verify", "diff", "bench", "auto"))


# ---------------------------------------------------------------------- numbers

BAD = {"NaN": np.nan, "a number that float32 lacks": np.inf, "overflow": 1e300}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    "arguments",
    [
        ("m.onnx", "--calibration", "good.npz", "--calibration", "bad.npz"),
        ("m.onnx", "--data", "bad.npz"),
        ("verify", "m.onnx", "m.onnx", "--data", "bad.npz"),
        ("inspect", "m.onnx", "--data", "bad.npz"),
        ("bench", "m.onnx", "--data", "bad.npz"),
    ],
)
def test_bad_numbers_are_named(cli: Cli, save: Save, arguments: tuple[str, ...], kind: str) -> None:
    save(MODEL)
    values = builders.random(32, 8).astype(np.float64)
    np.savez("good.npz", x=values)
    values[7, 3] = values[9, 1] = BAD[kind]
    np.savez("bad.npz", x=values)
    message = cli.fails(2, *arguments)
    assert "bad.npz holds" in message
    assert "in sample 7 of x (2 such samples)" in message
    assert ("NaN" in message) == (kind == "NaN")


def test_bad_numbers_of_arrays_are_named() -> None:
    values = builders.random(4, 8)
    values[2, 0] = np.nan
    for inputs in ({"data": {"x": values}}, {"calibration": [{"x": values}]}):
        with pytest.raises(oc.InputError, match="the data holds NaN in sample 2 of x"):
            oc.condense(MODEL, oc.Options(**inputs))  # type: ignore[arg-type]
    with pytest.raises(oc.InputError, match="sample 2"):
        oc.verify(MODEL, MODEL, {"x": values})


@pytest.mark.parametrize(
    "arguments",
    [
        ("m.onnx", "--seed", "-1"),
        ("verify", "m.onnx", "m.onnx", "--seed", "-1"),
        ("bench", "m.onnx", "--seed", "-1"),
        ("bench", "m.onnx", "--threads", "9999999"),
        ("bench", "m.onnx", "--batch", "99999999999"),
        ("m.onnx", "--input-shape", "x=99999999999x8"),
    ],
)
def test_numbers_out_of_range(cli: Cli, save: Save, arguments: tuple[str, ...]) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, batch="B"))
    cli.fails(2, *arguments)


# ---------------------------------------------------------------------- from Python

MISUSE: dict[str, tuple[Callable[[], Any], str]] = {
    "options": (lambda: oc.condense(MODEL, 0.9), r"Options\(threshold=0.9\)"),  # type: ignore[arg-type]
    "options of analyze": (lambda: oc.analyze(MODEL, {"seed": 1}), "Options"),  # type: ignore[arg-type]
    "threshold": (lambda: oc.Options(threshold="0.9"), "is a number, not '0.9'"),  # type: ignore[arg-type]
    "switch": (lambda: oc.Options(lossless="yes"), "True or False"),  # type: ignore[arg-type]
    "seed": (lambda: oc.Options(seed=0.5), "a whole number"),  # type: ignore[arg-type]
    "truth": (lambda: oc.Options(tolerance=True), "a number"),
    "budget": (lambda: oc.Options(budget="params=0.5"), r'\("params", F\)'),  # type: ignore[arg-type]
    "budget of one": (lambda: oc.Options(budget=("params",)), "a pair"),  # type: ignore[arg-type]
    "data": (lambda: oc.Options(data=np.zeros((4, 8))), "arrays by input name"),  # type: ignore[arg-type]
    "calibration": (lambda: oc.Options(calibration=np.zeros((4, 8))), "arrays by input name"),
    "calibrations": (lambda: oc.condense(MODEL, oc.Options(calibration=[np.zeros(8)])), "arrays by input name"),
    "data of verify": (lambda: oc.verify(MODEL, MODEL, np.zeros((4, 8))), "by input name"),  # type: ignore[arg-type]
    "ragged": (lambda: oc.condense(MODEL, oc.Options(data={"x": [[1], [1, 2]]})), "no array"),  # type: ignore[dict-item]
    "shape": (lambda: oc.Options(input_shape={"x": 3}), "sizes by name"),  # type: ignore[dict-item]
    "shapes": (lambda: oc.Options(input_shape=(3, 8)), "sizes by name"),  # type: ignore[arg-type]
    "globs": (lambda: oc.Options(include=5), "tuple of globs"),  # type: ignore[arg-type]
    "pairs": (lambda: oc.Options(layer_threshold=("fc0", 0.5)), "pairs"),  # type: ignore[arg-type]
    "score": (lambda: oc.Options(evaluate=5, max_drop=1), "a function"),  # type: ignore[arg-type]
    "model": (lambda: oc.condense(5), "ModelProto"),  # type: ignore[arg-type]
    "replay": (lambda: oc.condense(MODEL, replay="p.json"), "Plan.load"),  # type: ignore[arg-type]
    "rewrite": (lambda: oc.rewrite(MODEL, "p.json"), "Plan.load"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_says_what_was_expected(name: str) -> None:
    use, expected = MISUSE[name]
    with pytest.raises(oc.CondenseError, match=expected) as refused:
        use()
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_are_numbers() -> None:
    assert oc.Options(threshold=np.float32(0.5), seed=np.int64(3)).threshold == 0.5  # type: ignore[arg-type]


# ---------------------------------------------------------------------- at home


def test_nothing_is_written_at_home(tmp_path: Path, save: Save) -> None:
    """Neither onnxruntime nor anything else leaves a trace, or warns where it cannot."""
    save(MODEL, "work/m.onnx")
    home = tmp_path / "home"
    home.mkdir()
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    environment = {name: str(home) for name in names} | {"TMPDIR": str(home)}
    home.chmod(0o500)
    for arguments in (("m.onnx", "--lossless"), ("verify", "m.onnx", OUT)):
        done = shell(*arguments, cwd=tmp_path / "work", **environment | {"TMPDIR": str(tmp_path / "work")})
        assert (done.code, done.err) == (0, "")
    assert snapshot(home) == {}
    assert not list(home.iterdir())


@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_is_off_unless_a_user_says_so(given: dict[str, str], expected: str) -> None:
    program = "import os, sys, onnx_condense; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", program], env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
