"""The command line as a program: streams, replay, and what the terminal shows."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from support import builders
from support.apart import apart
from support.cli import OUT, Cli, Save, read, shell, snapshot, widths

import onnx_condense
from onnx_condense.model.protos import serialize
from onnx_condense.pipeline import Surroundings, condense_in
from onnx_condense.planning.hardware import ThisMachine

SCRIPT = Path(sys.executable).with_name("onnx-condense")


def test_module_writes_default_name_with_quiet_stderr(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    outcome = shell("m.onnx", cwd=tmp_path)
    assert outcome.code == 0
    assert outcome.written == {OUT}
    assert outcome.err == "", "no progress and no log noise when stderr is no terminal"
    assert OUT in outcome.out


def test_console_script_is_the_same_program(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    outcome = shell("m.onnx", "--lossless", cwd=tmp_path, program=(str(SCRIPT),))
    assert outcome.code == 0
    assert outcome.written == {OUT}


def test_process_exits_2_with_one_line(tmp_path: Path, save: Save) -> None:
    path = save(builders.mlp((8, 16, 3)))
    path.write_bytes(path.read_bytes()[:200])
    outcome = shell("m.onnx", cwd=tmp_path)
    assert outcome.code == 2
    assert "m.onnx" in outcome.error
    assert outcome.out == ""
    assert not outcome.written


def test_process_exits_1_when_models_differ(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), seed=0), "a.onnx")
    save(builders.mlp((8, 16, 3), seed=1), "b.onnx")
    outcome = apart("verify", "a.onnx", "b.onnx", cwd=tmp_path)
    assert outcome.code == 1
    assert "--tolerance" in outcome.error


def test_no_onnxruntime_noise_for_a_model_it_refuses(tmp_path: Path, save: Save) -> None:
    save(builders.custom_operator())
    outcome = apart("m.onnx", cwd=tmp_path)
    assert outcome.code == 2
    assert "NoSuchOperator" in outcome.error


def test_progress_appears_on_a_terminal(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "onnx_condense", "m.onnx", "--lossless"]
    environment = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=end) as process:
        os.close(end)
        shown = b""
        try:
            while chunk := os.read(terminal, 4096):
                shown += chunk
        except OSError:  # Linux says EIO when the other end closes
            pass
    os.close(terminal)
    assert process.returncode == 0
    assert shown.strip(), "a terminal shows progress"


def test_version_and_help(cli: Cli) -> None:
    for option, expected in (("--version", onnx_condense.__version__), ("--help", "--layer-threshold")):
        with pytest.raises(SystemExit) as stopped:
            cli.run(option)
        assert stopped.value.code == 0
        assert expected in cli.capfd.readouterr().out


def test_quiet_prints_nothing(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    outcome = cli.ok("m.onnx", "--quiet")
    assert outcome.out == outcome.err == ""
    assert outcome.written == {OUT}


@pytest.mark.parametrize(
    "arguments", [(), ("--no-such-option", "m.onnx"), ("m.onnx", "--merge", "average"), ("m.onnx", "extra")]
)
def test_usage_errors_are_one_line(cli: Cli, save: Save, arguments: tuple[str, ...]) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "--help" in cli.fails(2, *arguments)


# ---------------------------------------------------------------------- replay, dry run, determinism


def test_same_input_same_bytes(tmp_path: Path, save: Save) -> None:
    """Two processes, two hash seeds, two folders: output and plan equal, the report but for its seconds."""
    model = builders.convnet((3, 24, 24), clusters=6, noise=0.1)
    found = []
    for number in ("1", "2"):
        folder = save(model, f"{number}/m.onnx").parent
        done = shell(
            "m.onnx", "--threshold", "0.88", "--plan", "p.json", "--report", "r.json", cwd=folder, PYTHONHASHSEED=number
        )
        assert done.code == 0
        report = read(folder / "r.json")
        assert report.pop("seconds")
        files = snapshot(folder)
        found.append((report, {name: files[name] for name in (OUT, "p.json")}, done.out))
    assert found[0] == found[1]
    assert widths(tmp_path / "1/r.json")["conv0"][1] < 24


class Narrow(ThisMachine):
    """Another host."""

    def block_width(self) -> int:
        return 5


def test_replay_gives_the_same_bytes(cli: Cli, save: Save) -> None:
    """The plan holds what was measured on the host: another host's block width changes nothing."""
    save(builders.convnet((3, 48, 48), clusters=6, noise=0.1))
    cli.ok("m.onnx", "--threshold", "0.9", "--align", "auto", "--plan", "p.json")
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes() != Path("m.onnx").read_bytes()
    elsewhere = Surroundings(hardware=Narrow())
    replayed = condense_in(elsewhere, "m.onnx", onnx_condense.Options(), onnx_condense.Plan.load("p.json"))
    assert serialize(replayed.model) == serialize(onnx.load(OUT))
    assert condense_in(elsewhere, "m.onnx", onnx_condense.Options()).plan.align == 5


@pytest.mark.parametrize(
    "options",
    [
        ("--lossless",),
        ("--fold-batchnorm",),
        ("--sequential",),
        ("--merge", "delete"),
        ("--tolerance", "0.05"),
    ],
)
def test_replay_of_every_method(cli: Cli, save: Save, options: tuple[str, ...]) -> None:
    save(builders.convnet((3, 8, 8), clusters=4, ratios=False, batchnorm=True))
    cli.ok("m.onnx", "--align", "1", "--plan", "p.json", *options)
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes() != Path("m.onnx").read_bytes()


def test_replay_of_a_plan_that_changes_nothing(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 8, 3)))
    cli.ok("m.onnx", "--plan", "p.json")
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path("m.onnx").read_bytes()


def test_replay_with_symbolic_shapes(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, batch="B"))
    cli.ok("m.onnx", "--input-shape", "x=3x8", "--plan", "p.json")
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes()


def test_replay_on_another_model(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    save(builders.mlp((8, 16, 3), clusters=4, seed=1), "other.onnx")
    save(builders.convnet(clusters=4), "conv.onnx")
    cli.ok("m.onnx", "--plan", "p.json")
    for other in ("other.onnx", "conv.onnx"):
        assert "another model" in cli.fails(2, other, "--replay", "p.json")


@pytest.mark.parametrize(
    "option", ["--threshold=0.9", "--lossless", "--merge=ratio", "--sequential", "--tolerance=0.1"]
)
def test_replay_does_not_plan_anew(cli: Cli, save: Save, option: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    cli.ok("m.onnx", "--plan", "p.json")
    assert "--replay" in cli.fails(2, "m.onnx", "--replay", "p.json", option, "-o", "again.onnx")


def test_dry_run_stops_at_the_plan(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    assert not cli.ok("m.onnx", "--dry-run").written
    assert cli.ok("m.onnx", "--dry-run", "--plan", "p.json", "--report", "r.json").written == {
        "p.json",
        "r.json",
        "r.recipe.toml",
    }
    assert widths("r.json") == {"fc0": (16, 4)}
    assert read("r.json")["verification"] is None
    assert read("r.json")["output"] is None
    cli.ok("m.onnx", "--replay", "p.json")
    assert builders.weight(onnx.load(OUT), "w0").shape == (4, 8)


# ---------------------------------------------------------------------- what the terminal shows


def test_the_terminal_shows_groups_totals_and_both_errors(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 16, 3), clusters=(5, 4)))
    shown = cli.ok("m.onnx").out
    for layer, after in (("fc0", 5), ("fc1", 4)):
        row = next(line for line in shown.splitlines() if layer in line)
        assert re.search(rf"16\D+{after}\b.*1\.000.*auto", row), row
    totals = {key: next(line for line in shown.splitlines() if key in line) for key in ("parameters", "MACs", "bytes")}
    assert re.search(r"467\D+84\b", totals["parameters"].replace(",", "")), totals
    assert re.search(r"432\D+72\b", totals["MACs"].replace(",", "")), totals
    sizes = [Path(name).stat().st_size for name in ("m.onnx", OUT)]
    assert re.search(rf"{sizes[0]}\D+{sizes[1]}\b", totals["bytes"].replace(",", "")), totals
    assert "Surgery error" in shown
    assert "Approximation error" in shown


def test_refusals_are_grouped_by_reason(cli: Cli, save: Save) -> None:
    """Two layers whose channels a Softmax mixes are one row with one reason."""
    lines, source = "", "x"
    for layer in range(2):
        lines += f"[fc{layer}] z{layer} = Gemm<transB = 1>({source}, w{layer}) "
        lines += f"[s{layer}] h{layer} = Softmax(z{layer}) "
        source = f"h{layer}"
    text = f"g (float[N, 8] x) => (float[N, 3] y) {{ {lines} [fc2] y = Gemm<transB = 1>(h1, w2) }}"
    weights = {"w0": builders.random(8, 8), "w1": builders.random(8, 8), "w2": builders.random(3, 8)}
    save(builders.build(text, weights))
    shown = cli.ok("m.onnx", "--report", "r.json").out
    refusals = read("r.json")["refusals"]
    together = [r for r in refusals if {"fc0", "fc1"} <= set(r["layers"])]
    assert len(together) == 1
    assert together[0]["parameters"] == 128
    assert together[0]["reason"].split()[0] in shown
    assert len({r["reason"] for r in refusals}) == len(refusals)
