"""An option is written once: what the command line, plans and help know of it comes from its field."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from support import builders
from support.cli import Cli, Save

import onnx_condense
from onnx_condense import Options, UsageError
from onnx_condense.cli.arguments import Arguments, Command, Fields, OptionRow, said
from onnx_condense.cli.commands import AUTO, BENCH, COMMANDS, CONDENSE, VERIFY, Verify
from onnx_condense.finetune import Settings
from onnx_condense.flags import Heading, InPlan, check, flags_of, from_json, must, option, to_json, written
from onnx_condense.options import Depthwise, Host, Method
from onnx_condense.timing.setup import Setup

GIVEN: dict[str, tuple[list[str], Any]] = {
    "threshold": (["0.9"], 0.9),
    "layer_threshold": (["fc*=0.9", "a=b=0.8"], (("fc*", 0.9), ("a=b", 0.8))),
    "lossless": ([], True),
    "merge": (["ratio"], Method.RATIO),
    "depthwise": (["kernel"], Depthwise.KERNEL),
    "align": (["4"], 4),
    "align_for": (["avx2"], Host.AVX2),
    "ensure_faster": ([], True),
    "include": (["a*", "b"], ("a*", "b")),
    "exclude": (["c"], ("c",)),
    "tolerance": (["0.1"], 0.1),
    "budget": (["latency=0.5"], ("latency", 0.5)),
    "latency_for": (["costs.json"], "costs.json"),
    "threads": (["2"], 2),
    "batch": (["8"], 8),
    "evaluate": (["score {model}"], "score {model}"),
    "max_drop": (["0.1"], 0.1),
    "trials": (["3"], 3),
    "data": (["d.npz"], "d.npz"),
    "calibration": (["c.npz", "d.npz"], ["c.npz", "d.npz"]),
    "input_shape": (["x=1x8", "y=2,3"], {"x": (1, 8), "y": (2, 3)}),
    "input_range": (["0,255"], (0.0, 255.0)),
    "sequential": ([], True),
    "widths_only": ([], True),
    "fold_batchnorm": ([], True),
    "seed": (["3"], 3),
}
"""Option -> texts on a command line, and what they mean."""

TOGETHER = {
    "evaluate": ("max_drop",),
    "max_drop": ("evaluate",),
    "trials": ("evaluate", "max_drop"),
    **dict.fromkeys(("latency_for", "threads", "batch"), ("budget",)),
}
"""Options that go with others."""


def line(name: str) -> list[str]:
    """The words of a command line that give an option."""
    flag = written(name, flags_of(Options)[name])
    return [word for text in GIVEN[name][0] for word in (flag, text)] or [flag]


def test_every_option_has_a_flag_and_an_example() -> None:
    assert list(flags_of(Options)) == [f.name for f in fields(Options)]
    assert GIVEN.keys() == flags_of(Options).keys()


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_is_what_the_option_holds(name: str) -> None:
    given = (name, *TOGETHER.get(name, ()))
    options = CONDENSE.parse(["m.onnx", *(word for one in given for word in line(one))]).of(Options)
    for field in fields(Options):
        expected = GIVEN[field.name][1] if field.name in given else getattr(Options(), field.name)
        assert getattr(options, field.name) == expected


@pytest.mark.parametrize("name", GIVEN)
def test_a_plan_answers_what_it_says_that_it_does(cli: Cli, save: Save, name: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.ok("m.onnx", "--plan", "p.json", "--dry-run")
    outcome = cli.run("m.onnx", "--replay", "p.json", *line(name))
    refused = f"--replay applies what the plan says: drop --{name.replace('_', '-')}, which would plan anew"
    assert (refused in outcome.err) == (name not in ("data", "input_range", "seed"))
    assert (flags_of(Options)[name].plan is InPlan.OPEN) == (name in ("data", "input_range", "seed"))


def test_plans_of_earlier_versions_lack_some_options() -> None:
    content = Options(threshold=0.9, align=4).to_json()
    for name in ("budget", "evaluate", "max_drop", "trials", "widths_only"):
        content.pop(name)
    assert Options.of_plan(content, 8) == Options(threshold=0.9, merge="auto", align=8)
    content.pop("sequential")
    with pytest.raises(KeyError, match="sequential"):
        Options.of_plan(content, 8)


@pytest.mark.parametrize(
    "options",
    [
        Options(layer_threshold=(("fc*", 0.9),), include=("a", "b"), exclude=("c",), merge="ratio", threshold=0.5),
        Options(lossless=True, depthwise="kernel", fold_batchnorm=True),
        Options(evaluate="score {model}", max_drop=0.1, trials=5),
        Options(budget=("macs", 0.5), sequential=False),
    ],
)
def test_options_come_back_from_a_plan(options: Options) -> None:
    content = json.loads(json.dumps(options.to_json()))
    again = Options.of_plan(content, 1)
    assert again.to_json() == content | {"align": 1}


def test_names_are_members_of_enums_and_json_has_plain_strings() -> None:
    options = Options(merge="ratio", depthwise="kernel", align_for="avx2")
    assert options.merge is Method.RATIO
    assert options.depthwise is Depthwise.KERNEL
    assert options.align_for is Host.AVX2
    content = options.to_json()
    assert [type(content[name]) for name in ("merge", "depthwise", "align_for")] == [str] * 3
    for wrong, words in (
        ({"merge": "lossless"}, "--merge is auto, calibrated, moments, ratio, delete, not lossless"),
        ({"depthwise": "both"}, "--depthwise is joint or kernel, not both"),
        ({"align_for": "mips"}, "--align-for is avx2, avx512, arm64, not mips"),
    ):
        with pytest.raises(UsageError, match=words):
            Options(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        (
            CONDENSE,
            ["m", "--threshold", "x"],
            "argument --threshold: invalid float value: 'x' (see onnx-condense --help)",
        ),
        (CONDENSE, ["m", "--layer-threshold", "0.9"], "--layer-threshold wants GLOB=T, not 0.9"),
        (
            CONDENSE,
            ["m", "--budget", "params=x"],
            "--budget wants params=F, macs=F, latency=F or error=R, not params=x",
        ),
        (CONDENSE, ["m", "--input-shape", "x=a"], "--input-shape wants NAME=1x3x224x224, not x=a"),
        (CONDENSE, ["m", "--align", "x"], "--align is auto or a positive whole number, not x: --align 1 turns it off"),
        (CONDENSE, ["m", "--align", "0"], "--align is auto or a positive whole number, not 0: --align 1 turns it off"),
        (VERIFY, ["a", "b", "--tolerance", "-1"], "--tolerance must be a number of at least 0, not -1"),
        (BENCH, ["m", "--batch", "1,x"], "--batch wants sizes like 1,8,64, not 1,x"),
        (BENCH, ["m", "--batch", "1,0"], "--batch sizes are positive whole numbers, not 0"),
        (BENCH, ["m", "--threads", "-1"], "--threads is 0 (all cores) to 256, not -1"),
        (AUTO, ["m", "--work", "w", "--rounds", "0"], "--rounds is a whole number of at least 1, not 0"),
        (
            AUTO,
            ["m", "--work", "w", "--until", "0.1"],
            "argument --until: wants params=SHARE, for example params=0.115, not 0.1 (see onnx-condense auto --help)",
        ),
        (AUTO, ["m"], "the following arguments are required: --work (see onnx-condense auto --help)"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(command: Command, given: list[str], words: str) -> None:
    def values() -> list[object]:
        arguments = command.parse(given)
        return [arguments.of(part.kind) for part in command.parts]

    with pytest.raises(UsageError) as refused:
        values()
    assert str(refused.value) == words


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_stands_under_headings(command: Command) -> None:
    shown = command.parser().format_help()
    used = [group for group in Heading if f"\n{group}:\n" in shown]
    assert used == list(dict.fromkeys(row.heading for row in command.rows()))
    assert [shown.index(f"\n{group}:\n") for group in used] == sorted(shown.index(f"\n{group}:\n") for group in used)
    assert all(f"  {row.option}" in shown or f", {row.option}" in shown for row in command.rows())


@pytest.mark.parametrize(("command", "kind"), [(CONDENSE, Options), (AUTO, Settings), (BENCH, Setup)])
def test_nothing_given_is_the_default(command: Command, kind: type[Any]) -> None:
    assert Arguments(command, {}).of(kind) == kind()


def test_parts_with_an_option_of_the_same_name_are_apart() -> None:
    arguments = VERIFY.parse(["a", "b", "--tolerance", "0.5"])
    assert arguments.of(Verify).tolerance == 0.5
    assert arguments.of(Options).tolerance is None


# ---------------------------------------------------------------------- a dataclass of its own


_heat = must(lambda value: value < 300, "{option}: {value:g}")


@dataclass(frozen=True)
class Oven:
    """Two options."""

    heat: float = option(
        180.0, "how hot", Heading.WELL, "C", float, must(lambda value: value < 300, "{option}: {value:g}")
    )
    tray: tuple[str, ...] = option((), "what goes in", Heading.WHERE, "CAKE", gather=tuple, unset="nothing")


def test_a_command_is_made_from_a_dataclass() -> None:
    command = Command("bake", "Bakes.", "", (Fields(Oven),))
    found = command.parse(["--tray", "a", "--tray", "b", "--heat", "200"]).of(Oven)
    assert found == Oven(200.0, ("a", "b"))
    assert command.rows() == [
        OptionRow(Heading.WELL, "--heat", "C", "180", "how hot"),
        OptionRow(Heading.WHERE, "--tray", "CAKE", "nothing", "what goes in"),
    ]
    assert said(flags_of(Oven)["heat"], 180.0) == "how hot (default: 180)"
    with pytest.raises(UsageError, match="--heat: 400"):
        command.parse(["--heat", "400"]).of(Oven)
    with pytest.raises(UsageError, match="--heat: 300"):
        check(Oven(300.0))
    with pytest.raises(UsageError, match=r"unrecognized arguments: --hea 5 \(see onnx-condense bake --help\)"):
        command.parse(["--hea", "5"])


def test_json_has_lists_for_tuples_and_strings_for_enums() -> None:
    value = {"a": (("x", 1.5), ()), "b": Heading.WELL, "c": None}
    assert to_json(value) == {"a": [["x", 1.5], []], "b": "how well", "c": None}
    assert type(to_json(value)["b"]) is str
    assert from_json([["x", 1.5], []]) == (("x", 1.5), ())


# ---------------------------------------------------------------------- what is imported, and when

SLOW = ("numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "scipy", "psutil", "rich")


@pytest.mark.parametrize(
    "program",
    [
        "import onnx_condense; assert 'condense' in dir(onnx_condense)",
        "from onnx_condense import Options; Options(threshold=0.9)",
        *(
            f"from onnx_condense.cli.main import main\ntry: main([*{name.split()}, '--help'])\nexcept SystemExit: pass"
            for name in COMMANDS
        ),
        *(f"from onnx_condense.cli.main import main; main([*{name.split()}, '--no-such-option'])" for name in COMMANDS),
    ],
)
def test_nothing_slow_is_imported_before_it_is_needed(program: str) -> None:
    check = f"import sys; found = [name for name in {SLOW} if name in sys.modules]; assert not found, found"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_that_measures_nothing_imports_no_statistics(tmp_path: Path) -> None:
    model = Path(__file__).parent.parent.parent / "models" / "digits_conv_bn.onnx"
    arguments = [str(model), "--threshold", "0.9", "--quiet", "-o", str(tmp_path / "small.onnx")]
    program = f"from onnx_condense.cli.main import main; assert main({arguments}) == 0"
    check = "import sys; assert not {'scipy', 'matplotlib', 'jinja2'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_come_when_they_are_asked_for() -> None:
    assert set(onnx_condense.__all__) <= set(dir(onnx_condense))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        onnx_condense.no_such_name  # noqa: B018
