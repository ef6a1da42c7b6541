"""The check of condensed models, as pre-commit calls it, and the step of GitHub's actions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import builders
from support.cli import Cli, Save

from onnx_condense.hooks import main

ROOT = Path(__file__).parents[1]


def test_a_model_is_held_against_the_one_it_was_made_of(
    cli: Cli, save: Save, capfd: pytest.CaptureFixture[str]
) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.ok("m.onnx", "--lossless")
    assert main(["m.condensed.onnx", "m.onnx", "read.me"]) == 0
    save(builders.mlp((8, 16, 3), seed=3), "m.condensed.onnx")
    assert main(["m.condensed.onnx"]) == 1
    assert main(["--tolerance", "9", "m.condensed.onnx"]) == 0
    assert main(["none.condensed.onnx"]) == 2
    assert "cannot read none.onnx" in capfd.readouterr().err


def test_the_hook_runs_what_there_is() -> None:
    yaml = pytest.importorskip("yaml")
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"].split()[:2] == ["python", "-m"]
    assert (ROOT / hook["entry"].split()[2].replace(".", "/")).with_suffix(".py").exists()
    assert re.search(hook["files"], "models/m.condensed.onnx")
    assert not re.search(hook["files"], "models/m.onnx")


@pytest.mark.parametrize(("error", "code"), [("0.5", 0), ("1e-9", 1)])
def test_the_step_fails_above_an_error(tmp_path: Path, save: Save, error: str, code: int) -> None:
    yaml = pytest.importorskip("yaml")
    save(builders.mlp((8, 16, 3), clusters=4, noise=0.05))
    action = yaml.safe_load((ROOT / ".github/actions/condense/action.yml").read_text())
    step = action["runs"]["steps"][1]
    given = {name: value.get("default", "") for name, value in action["inputs"].items()}
    given |= {"model": "m.onnx", "error": error, "options": "--threshold 0.9 --align 1"}
    found = {name: given[re.findall(r"inputs\.(\w+)", value)[0]] for name, value in step["env"].items()}
    (tmp_path / "onnx-condense").write_text(f'#!/bin/sh\nexec {sys.executable} -m onnx_condense "$@"\n')
    (tmp_path / "onnx-condense").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=tmp_path,
        env=os.environ | found | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert (tmp_path / "condensed.json").exists()
