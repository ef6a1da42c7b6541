"""Every command of the pages for users runs, in their order, in a folder with the models that come along."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.cli import Cli
from support.pages import run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def checkout(cli: Cli) -> Cli:
    """A folder with what a checkout holds that pages name."""
    shutil.copytree(ROOT / "models", cli.folder / "models")
    return cli


def test_data(checkout: Cli) -> None:
    pytest.importorskip("PIL")
    assert run(DOCS / "data.md", checkout, {}, {"[:256]": "[:40]", "256, 64": "40, 20"}) == 8
