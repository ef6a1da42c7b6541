"""The README says what is true: its commands parse, its example report has the keys of a fresh one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from onnx_condense import Options, condense
from onnx_condense.cli.commands import CONDENSE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def keys(value: Any) -> Any:
    """The structure of a JSON value without its leaves; of lists, the first element's."""
    if isinstance(value, dict):
        return {name: keys(item) for name, item in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_the_example_report_is_of_this_version() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", README, re.S)
    report = condense(ROOT / "models" / "surrogate_h2.onnx", Options(threshold=0.95)).report.to_json()
    printed, fresh = json.loads(shown), json.loads(json.dumps(report))
    for content in (printed, fresh):
        content.pop("seconds")
        content["output"].pop("path")
    assert keys(printed) == keys(fresh)
    assert [g["width_after"] for g in printed["groups"]] == [g["width_after"] for g in fresh["groups"]]


def test_every_option_is_in_the_readme() -> None:
    options = {row.option for row in CONDENSE.rows()}
    assert {option for option in options - {"--output"} if option not in README} == set()


@pytest.mark.parametrize("path", re.findall(r"\((tools/[^)]+|models/[^)]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
