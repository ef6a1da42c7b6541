"""What every test may use: models on disk, and the command line with its side effects watched."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, settings
from support.cli import Cli, Save

from onnx_condense.timing.kept import PLACE

os.environ[PLACE] = ""  # what is timed here is not kept

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, run in tmp_path, on a wide terminal without colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    return Cli(tmp_path, capfd)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a model in tmp_path as NAME (default m.onnx)."""

    def saved(model: onnx.ModelProto, name: str = "m.onnx") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path

    return saved


def pytest_collection_finish() -> None:
    """What was collected stays to the end: garbage is not looked for there, and less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="write the golden files again")


@pytest.fixture
def regenerate(pytestconfig: pytest.Config) -> bool:
    """Whether golden files are written instead of compared."""
    return bool(pytestconfig.getoption("regenerate_golden"))
