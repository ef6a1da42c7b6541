"""--json of every command is what the published schemas say."""

from __future__ import annotations

import json

import pytest
from support import builders
from support.cli import Cli, Save
from support.schemas import FOLDER, check_schema

M, C = "m.onnx", "m.condensed.onnx"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((M,), "report"),
        ((M, "--budget", "params=0.8", "--dry-run"), "report"),
        ((M, "bad.onnx"), "several"),
        (("inspect", M), "analysis"),
        (("verify", M, M), "verification"),
        (("diff", M, M), "difference"),
        (("bench", M, M, "--seconds", "0.1", "--profile"), "benchmark"),
    ],
)
def test_json_is_of_its_schema(cli: Cli, save: Save, arguments: tuple[str, ...], name: str) -> None:
    save(builders.convnet((3, 8, 8), clusters=4))
    save(builders.mlp((8, 16, 3))).with_name("bad.onnx").write_bytes(b"bad")
    outcome = cli.run(*arguments, "--json")
    assert outcome.code == (2 if "bad.onnx" in arguments else 0)
    content = json.loads(outcome.out)
    check_schema(name, content)
    with pytest.raises(Exception, match="required"):
        check_schema(name, {key: content[key] for key in ("format", "version")})


def test_every_schema_is_published_with_its_name() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert all(content["title"] == f"onnx-condense-{name}" for name, content in found.items())
