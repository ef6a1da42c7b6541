"""The published schemas, asked whether a document is one of theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


def check_schema(name: str, content: Mapping[str, Any]) -> None:
    """Fails where a document is not of a schema; skips without jsonschema."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((FOLDER / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema)
