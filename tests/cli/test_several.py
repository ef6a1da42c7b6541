"""Several models in one call."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import builders
from support.cli import Cli, Save, read

THRESHOLD = ("--threshold", "0.9")


@pytest.fixture
def models(save: Save) -> tuple[str, str]:
    save(builders.mlp((8, 16, 3), clusters=4), "a.onnx")
    save(builders.mlp((8, 8, 3)), "b.onnx")
    Path("out").mkdir()
    return "a.onnx", "b.onnx"


def test_several_models_are_a_table_and_one_exit_code(cli: Cli, models: tuple[str, str]) -> None:
    outcome = cli.ok(*models, *THRESHOLD, "-o", "out", "--report", "r.json")
    assert outcome.written == {"out/a.condensed.onnx", "out/b.condensed.onnx", "r.json", "r.recipe.toml"}
    assert "195 → 51" in next(line for line in outcome.out.splitlines() if "a.onnx" in line)
    assert "2 of 2 models are done." in outcome.out
    assert [row["exit_code"] for row in read("r.json")["models"]] == [0, 0]
    single = cli.ok("a.onnx", *THRESHOLD).written
    assert single == {"a.condensed.onnx"}
    assert Path("a.condensed.onnx").read_bytes() == Path("out/a.condensed.onnx").read_bytes()


def test_a_name_that_ends_as_a_folder_is_one(cli: Cli, models: tuple[str, str]) -> None:
    assert cli.ok("a.onnx", *THRESHOLD, "-o", "out/").written == {"out/a.condensed.onnx"}
    assert "not there" in cli.fails(2, "a.onnx", "-o", "nowhere/")


def test_one_that_fails_does_not_keep_the_others(cli: Cli, models: tuple[str, str]) -> None:
    Path("bad.onnx").write_bytes(Path("a.onnx").read_bytes()[:100])
    outcome = cli.run("bad.onnx", *models, *THRESHOLD)
    assert outcome.code == 2
    assert outcome.written == {"a.condensed.onnx", "b.condensed.onnx"}
    assert "bad.onnx" in outcome.error
    assert "2 of 3 models are done, 1 failed." in outcome.out


def test_what_was_condensed_before_is_said_and_skipped(cli: Cli, models: tuple[str, str]) -> None:
    cli.ok(*models, *THRESHOLD)
    outcome = cli.run(*sorted(map(str, Path().glob("*.onnx"))), *THRESHOLD, "--force")
    assert outcome.code == 0
    assert "a.condensed.onnx, b.condensed.onnx; name one alone" in outcome.err
    assert not list(Path().glob("*.condensed.condensed.onnx"))
    assert "name one alone" in cli.fails(2, "a.condensed.onnx", "b.condensed.onnx")
    assert cli.ok("a.condensed.onnx", "--lossless").written == {"a.condensed.condensed.onnx"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("-o", "file.onnx"), "several models go into a folder"),
        (("--plan", "p.json"), "of one model"),
        (("--report", "r.html"), "one model"),
        (("-",), "name it alone"),
        (("a.onnx",), "written twice"),
        (("nothing.onnx",), "nothing.onnx"),
    ],
)
def test_what_is_of_one_model_is_refused_before_anything_is_written(
    cli: Cli, models: tuple[str, str], more: tuple[str, ...], words: str
) -> None:
    assert words in cli.fails(2, *models, *more)


def test_nothing_is_written_over_unasked(cli: Cli, models: tuple[str, str]) -> None:
    Path("out/b.condensed.onnx").write_bytes(b"precious")
    assert "b.condensed.onnx exists" in cli.fails(2, *models, "-o", "out")
