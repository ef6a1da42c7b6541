"""What is said where an extra is missing: the command that installs it, from where it can be."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from onnx_condense import UsageError, extras


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "distribution", lambda name: None)
    with pytest.raises(UsageError) as caught:
        extras.need("--x", "images", ["numpy", "no_such_package"])
    assert str(caught.value) == "--x needs no_such_package: pip install 'onnx-condense[images]'"
    extras.need("--x", "images", ["numpy"])


def test_torch_is_missed_by_name() -> None:
    program = "import sys; sys.modules['torch'] = None; import onnx_condense.torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "onnx_condense.torch needs torch: pip install '" in done.stderr


def test_a_checkout_that_is_not_installed_is_named_by_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> metadata.Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "distribution", none)
    assert extras.command("plot") == f"pip install '{Path(extras.__file__).parents[1]}[plot]'"
    assert (Path(extras.__file__).parents[1] / "pyproject.toml").exists()
