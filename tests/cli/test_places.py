"""Where output goes: names, places that are refused, external data."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from support import builders
from support.cli import OUT, Cli, Save, read

from onnx_condense.model.files import load


def test_output_name(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    assert cli.ok("m.onnx", "-o", "other.onnx").written == {"other.onnx"}


def test_default_output_lies_beside_the_input(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4), "folder/net.v2.onnx")
    assert cli.ok("folder/net.v2.onnx").written == {"folder/net.v2.condensed.onnx"}


def test_existing_output_needs_force(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    Path(OUT).write_text("precious")
    assert "--force" in cli.fails(2, "m.onnx")
    assert cli.ok("m.onnx", "--force").written == {OUT}
    assert len(onnx.load(OUT).graph.node) == 3


@pytest.mark.parametrize("way", ["m.onnx", "folder/../m.onnx", "symlink.onnx", "hardlink.onnx"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_output_equal_to_model_is_refused_always(cli: Cli, save: Save, way: str, force: tuple[str, ...]) -> None:
    path = save(builders.mlp((8, 16, 3), clusters=4))
    (cli.folder / "folder").mkdir()
    (cli.folder / "symlink.onnx").symlink_to(path)
    (cli.folder / "hardlink.onnx").hardlink_to(path)
    cli.fails(2, "m.onnx", "-o", way, *force)


def test_output_equal_to_model_is_refused_even_for_a_dry_run(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.fails(2, "m.onnx", "-o", "m.onnx", "--dry-run")


@pytest.mark.parametrize("option", ["--plan", "--report"])
def test_no_option_may_write_over_the_model(cli: Cli, save: Save, option: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.fails(2, "m.onnx", option, "m.onnx")
    cli.fails(2, "inspect", "m.onnx", "--report", "m.onnx")


def test_two_outputs_need_two_places(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.fails(2, "m.onnx", "--plan", "same.json", "--report", "same.json")
    cli.fails(2, "m.onnx", "-o", "same.onnx", "--report", "same.onnx")


@pytest.mark.parametrize("output", ["nowhere/out.onnx", "folder"])
@pytest.mark.parametrize("option", ["-o", "--plan", "--report"])
def test_unusable_places_are_refused(cli: Cli, save: Save, option: str, output: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    (cli.folder / "folder").mkdir()
    assert output.split("/")[0] in cli.fails(2, "m.onnx", option, output, "--force")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    locked = cli.folder / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    assert "-o" in cli.fails(2, "m.onnx", "-o", "locked/out.onnx")


def test_external_data_stays_external_and_untouched(cli: Cli) -> None:
    external("m.onnx", "m.onnx.data", clusters=8)
    outcome = cli.ok("m.onnx", "-o", "out.onnx", "--report", "r.json")
    assert outcome.written == {"out.onnx", "r.json", "r.recipe.toml", *load(Path("out.onnx")).external}
    cli.ok("verify", "m.onnx", "out.onnx")
    written = read("r.json")["output"]
    assert written["bytes"] == sum(Path(name).stat().st_size for name in outcome.written - {"r.json", "r.recipe.toml"})
    assert written["sha256"] == load("out.onnx").sha256


def test_external_data_of_the_input_is_no_place_for_output(cli: Cli) -> None:
    external("m.onnx", "out.onnx.data", clusters=8)
    cli.fails(2, "m.onnx", "-o", "out.onnx.data", "--force")
    assert "out.onnx.data" not in cli.ok("m.onnx", "-o", "out.onnx", "--force").written


def test_data_of_others_stay(cli: Cli) -> None:
    """A model that is written has data of its own name, whatever lies there."""
    external("m.onnx", "m.onnx.data", clusters=8)
    Path("out.onnx.data").write_text("precious")
    assert cli.ok("m.onnx", "-o", "out.onnx").written == {"out.onnx", *load(Path("out.onnx")).external}
    assert "--force" in cli.fails(2, "m.onnx", "-o", "out.onnx")
    assert cli.ok("m.onnx", "-o", "out.onnx", "--force").written == set()


def test_missing_external_data(cli: Cli) -> None:
    external("m.onnx", "m.onnx.data")
    Path("m.onnx.data").unlink()
    assert "m.onnx.data" in cli.fails(2, "m.onnx")


def test_short_external_data(cli: Cli) -> None:
    external("m.onnx", "m.onnx.data")
    Path("m.onnx.data").write_bytes(Path("m.onnx.data").read_bytes()[:100])
    cli.fails(2, "m.onnx")


def test_copied_model_finds_its_external_data(cli: Cli) -> None:
    external("m.onnx", "m.onnx.data", clusters=None)
    Path("folder").mkdir()
    outcome = cli.ok("m.onnx", "-o", "folder/out.onnx")
    assert Path("folder/out.onnx").read_bytes() == Path("m.onnx").read_bytes()
    assert outcome.written == {"folder/out.onnx", "folder/m.onnx.data"}
    cli.ok("verify", "m.onnx", "folder/out.onnx", "--tolerance", "0")


def test_a_copy_keeps_the_folders_of_its_data(cli: Cli) -> None:
    external("m.onnx", "w/m.data", clusters=None)
    Path("folder").mkdir()
    assert cli.ok("m.onnx", "-o", "folder/out.onnx").written == {"folder/out.onnx", "folder/w/m.data"}
    assert cli.ok("m.onnx", "-o", "folder/again.onnx").written == {"folder/again.onnx"}, "its data are there already"
    cli.ok("verify", "m.onnx", "folder/again.onnx", "--tolerance", "0")


@pytest.mark.parametrize("way", ["file", "link", "folder"])
def test_a_copy_leaves_other_data_of_its_name_alone(cli: Cli, way: str) -> None:
    """Then its own have another name."""
    external("m.onnx", "w/m.data", clusters=None)
    Path("folder/w").mkdir(parents=True)
    if way == "file":
        Path("folder/w/m.data").write_text("precious")
    elif way == "folder":
        Path("folder/w/m.data").mkdir()
    else:
        Path("elsewhere").mkdir()
        Path("folder/w").rmdir()
        Path("folder/w").symlink_to("../elsewhere")
    outcome = cli.ok("m.onnx", "-o", "folder/out.onnx", "--report", "r.json")
    assert outcome.written == {
        "r.json",
        "r.recipe.toml",
        "folder/out.onnx",
        *(f"folder/{n}" for n in load(Path("folder/out.onnx")).external),
    }
    assert "weights" in outcome.out.splitlines()[-1]
    assert read("r.json")["output"]["sha256"] == load("folder/out.onnx").sha256
    cli.ok("verify", "m.onnx", "folder/out.onnx", "--tolerance", "0")


@pytest.mark.parametrize("option", ["-o", "--plan", "--report"])
def test_nothing_is_written_over_the_data_of_a_copy(cli: Cli, option: str) -> None:
    external("m.onnx", "m.data", clusters=None)
    Path("folder").mkdir()
    places = {"-o": "folder/out.onnx"} | {option: "folder/m.data"}
    assert "m.data" in cli.fails(2, "m.onnx", *(word for pair in places.items() for word in pair))


def external(name: str, location: str, clusters: int | None = 4) -> None:
    """Saves an MLP with its weights in a file of their own."""
    model = builders.mlp((40, 16, 3), clusters=clusters)
    Path(location).parent.mkdir(exist_ok=True)
    onnx.save(model, name, save_as_external_data=True, location=location, size_threshold=100)
    assert Path(location).stat().st_size > 1000
