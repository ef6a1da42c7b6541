"""Options in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import builders
from support.cli import OUT, Cli, Save, read, widths

MODEL = builders.mlp((8, 16, 3), clusters=4)


def test_the_recipe_beside_a_report_gives_the_same_bytes(cli: Cli, save: Save) -> None:
    save(MODEL)
    np.savez("x.npz", x=builders.random(32, 8))
    options = ("--layer-threshold", "fc0=0.5", "--align", "1", "--data", "x.npz", "--include", "fc*", "--seed", "3")
    assert cli.ok("m.onnx", *options, "--report", "r.json").written == {OUT, "r.json", "r.recipe.toml"}
    cli.ok("m.onnx", "--recipe", "r.recipe.toml", "--report", "again.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes()
    assert read("again.json")["options"] == read("r.json")["options"]
    assert Path("again.recipe.toml").read_bytes() == Path("r.recipe.toml").read_bytes()


def test_a_recipe_states_what_held_by_default(cli: Cli, save: Save) -> None:
    save(MODEL)
    cli.ok("m.onnx", "--report", "r.json")
    assert "# budget is not set: error=0.01, where nothing says how much goes" in Path("r.recipe.toml").read_text()
    cli.ok("m.onnx", "--recipe", "r.recipe.toml", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes()


def test_the_command_line_wins_over_a_recipe(cli: Cli, save: Save) -> None:
    save(MODEL)
    Path("r.toml").write_text('threshold = 1\ninclude = ["fc0"]\nlossless = false\n')
    cli.ok("m.onnx", "--recipe", "r.toml", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 16)}
    cli.ok("m.onnx", "--recipe", "r.toml", "--threshold", "0.9", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (16, 4)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("treshold = 0.9", "treshold"),
        ("threshold = ", "no TOML"),
        ("align = " + "9" * 5000, "no TOML"),
        ("data = " + "[" * 5000, "no TOML"),
        ("threshold = true", "threshold is a text"),
        ("lossless = 1", "lossless is true or false"),
        ("seed = [1, 2]", "one value"),
        ('seed = "x"', "--seed"),
        ('merge = "average"', "merge is auto"),
        ("threshold = 3", "0 < T <= 1"),
        ("[threshold]\nvalue = 1", "threshold is a text"),
        ("models = 1", "models"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_one_line(cli: Cli, save: Save, text: str, words: str) -> None:
    save(MODEL)
    Path("r.toml").write_text(text)
    assert words in cli.fails(2, "m.onnx", "--recipe", "r.toml")


@pytest.mark.parametrize("suffix", ["yaml", "yml", "YAML"])
def test_a_recipe_in_yaml(cli: Cli, save: Save, suffix: str) -> None:
    pytest.importorskip("yaml")
    save(MODEL)
    text = 'threshold: 9e-1\nlayer-threshold: ["fc0=0.5"]\nsequential: true\ninclude:\n  - "fc*"\n# seed: 3\n'
    Path(f"r.{suffix}").write_text(text)
    Path("r.toml").write_text('threshold = 0.9\nlayer-threshold = ["fc0=0.5"]\nsequential = true\ninclude = "fc*"\n')
    cli.ok("m.onnx", "--recipe", f"r.{suffix}", "--report", "a.json")
    cli.ok("m.onnx", "--recipe", "r.toml", "--report", "b.json", "--force")
    assert Path("a.recipe.toml").read_bytes() == Path("b.recipe.toml").read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threshold: [", "no YAML"),
        ("align: " + "9" * 5000, "no YAML"),
        ("data: " + "[" * 5000, "no YAML"),
        ("seed: 2026-99-99", "no YAML"),
        ("- threshold", "lines like threshold: 0.9"),
        ("threshold:", "threshold is a text"),
        ("1: 2", "says 1"),
        ("!!python/object/apply:os.system [ls]", "no YAML"),
    ],
)
def test_what_is_wrong_with_a_recipe_in_yaml_is_one_line(cli: Cli, save: Save, text: str, words: str) -> None:
    pytest.importorskip("yaml")
    save(MODEL)
    Path("r.yaml").write_text(text)
    assert words in cli.fails(2, "m.onnx", "--recipe", "r.yaml")


def test_yaml_is_an_extra(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(MODEL)
    Path("r.yaml").write_text("threshold: 1")
    monkeypatch.setattr("onnx_condense.extras.find_spec", lambda name: None)
    assert "--recipe r.yaml needs PyYAML: pip install" in cli.fails(2, "m.onnx", "--recipe", "r.yaml")


def test_a_recipe_that_is_not_there(cli: Cli, save: Save) -> None:
    save(MODEL)
    assert "nowhere.toml" in cli.fails(2, "m.onnx", "--recipe", "nowhere.toml")


def test_a_recipe_is_not_written_over_unasked(cli: Cli, save: Save) -> None:
    save(MODEL)
    Path("r.recipe.toml").write_text("precious")
    assert "r.recipe.toml exists" in cli.fails(2, "m.onnx", "--report", "r.json")
