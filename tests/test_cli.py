"""The command line as a program: streams, where output goes, replay, tables, inspect and verify."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import builders
import numpy as np
import onnx
import pytest
from conftest import OUT, Cli, Save, read, shell, snapshot, widths

import onnx_condense
from onnx_condense.model.protos import serialize
from onnx_condense.pipeline import Surroundings, condense_in
from onnx_condense.planning.hardware import ThisMachine

SCRIPT = Path(sys.executable).with_name("onnx-condense")


# ---------------------------------------------------------------------- programs and streams


def test_module_writes_default_name_with_quiet_stderr(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    outcome = shell("m.onnx", cwd=tmp_path)
    assert outcome.code == 0
    assert outcome.written == {OUT}
    assert outcome.err == "", "no progress and no log noise when stderr is no terminal"
    assert OUT in outcome.out


def test_console_script_is_the_same_program(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    outcome = shell("m.onnx", cwd=tmp_path, program=(str(SCRIPT),))
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
    outcome = shell("verify", "a.onnx", "b.onnx", cwd=tmp_path)
    assert outcome.code == 1
    assert "--tolerance" in outcome.error


def test_no_onnxruntime_noise_for_a_model_it_refuses(tmp_path: Path, save: Save) -> None:
    save(builders.custom_operator())
    outcome = shell("m.onnx", cwd=tmp_path)
    assert outcome.code == 2
    assert "NoSuchOperator" in outcome.error


def test_progress_appears_on_a_terminal(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "onnx_condense", "m.onnx"]
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
        assert expected in cli._capfd.readouterr().out


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


# ---------------------------------------------------------------------- where output goes


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


def test_plan_arrays_do_not_write_over_the_data(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 300, 3), clusters=12))
    np.savez("p.npz", x=builders.random(4, 8))
    cli.fails(2, "m.onnx", "--data", "p.npz", "--plan", "p.json")


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
    external("m.onnx", "m.onnx.data")
    outcome = cli.ok("m.onnx", "-o", "out.onnx")
    assert outcome.written == {"out.onnx", "out.onnx.data"}
    cli.ok("verify", "m.onnx", "out.onnx")


def test_external_data_of_the_input_is_no_place_for_output(cli: Cli) -> None:
    external("m.onnx", "out.onnx.data")
    cli.fails(2, "m.onnx", "-o", "out.onnx")
    cli.fails(2, "m.onnx", "-o", "out.onnx", "--force")
    cli.fails(2, "m.onnx", "-o", "out.onnx.data", "--force")


def test_existing_external_output_needs_force(cli: Cli) -> None:
    external("m.onnx", "m.onnx.data")
    Path("out.onnx.data").write_text("precious")
    assert "--force" in cli.fails(2, "m.onnx", "-o", "out.onnx")


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


def external(name: str, location: str, clusters: int | None = 4) -> None:
    """Saves an MLP with its weights in a file of their own."""
    model = builders.mlp((40, 16, 3), clusters=clusters)
    onnx.save(model, name, save_as_external_data=True, location=location, size_threshold=100)
    assert Path(location).stat().st_size > 1000


# ---------------------------------------------------------------------- replay, dry run, determinism


def test_same_input_same_bytes(tmp_path: Path, save: Save) -> None:
    """Two processes, two hash seeds, two folders: output and plan equal, the report but for its seconds."""
    model = builders.convnet((3, 48, 48), clusters=6, noise=0.1)
    found = []
    for number in ("1", "2"):
        folder = save(model, f"{number}/m.onnx").parent
        done = shell("m.onnx", "--plan", "p.json", "--report", "r.json", cwd=folder, PYTHONHASHSEED=number)
        assert done.code == 0
        report = read(folder / "r.json")
        assert report.pop("seconds")
        files = snapshot(folder)
        found.append((report, {name: files[name] for name in (OUT, "p.json")}, done.out))
    assert found[0] == found[1]
    assert widths(tmp_path / "1/r.json")["conv0"][1] < 48


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
    assert "Surgery error" in shown and "Approximation error" in shown


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
    assert len(together) == 1 and together[0]["parameters"] == 128
    assert together[0]["reason"].split()[0] in shown
    assert len({r["reason"] for r in refusals}) == len(refusals)


# ---------------------------------------------------------------------- inspect


def test_inspect_changes_nothing_and_shows_four_widths(cli: Cli, save: Save) -> None:
    save(cosines((0.9995, 0.96, 0.9, 0.8)))
    outcome = cli.ok("inspect", "m.onnx")
    assert not outcome.written
    for heading in ("0.999", "0.95", "0.88", "0.7"):
        assert heading in outcome.out
    row = next(line for line in outcome.out.splitlines() if "fc0" in line)
    assert re.findall(r"\d+\.?\d*", row.replace("fc0", ""))[:5] == ["8", "7", "6", "5", "4"], row


def test_inspect_agrees_with_condense(cli: Cli, save: Save) -> None:
    save(cosines((0.9995, 0.96, 0.9, 0.8)))
    for threshold, width in (("0.999", 7), ("0.95", 6), ("0.88", 5), ("0.7", 4)):
        cli.ok("m.onnx", "--threshold", threshold, "--report", "r.json", "--force")
        assert widths("r.json") == {"fc0": (8, width)}


def test_inspect_says_what_not_and_why(cli: Cli, save: Save) -> None:
    text = """g (float[N, 8] x) => (float[N, 3] y) {
        [fc0] z = Gemm<transB = 1>(x, w0)
        [mix] h = Softmax(z)
        [fc1] y = Gemm<transB = 1>(h, w1)
    }"""
    save(builders.build(text, {"w0": builders.random(8, 8), "w1": builders.random(3, 8)}))
    shown = cli.ok("inspect", "m.onnx").out
    rows = {name: [line for line in shown.splitlines() if name in line] for name in ("fc0", "fc1")}
    assert "mixes channels" in " ".join(rows["fc0"])
    assert "output" in " ".join(rows["fc1"])


def cosines(values: tuple[float, ...]) -> onnx.ModelProto:
    """A hidden layer of pairs with these cosines; pairs are orthogonal to each other."""
    size = 2 * len(values)
    rows = np.eye(size, dtype=np.float32)
    for pair, cosine in enumerate(values):
        rows[2 * pair + 1, 2 * pair : 2 * pair + 2] = cosine, np.sqrt(1 - cosine**2)
    return builders.head(rows)


# ---------------------------------------------------------------------- verify


def test_verify_exit_codes(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    other = builders.mlp((8, 16, 3))
    builders.set_weight(other, "b1", builders.weight(other, "b1") + np.float32(1e-2))
    save(other, "other.onnx")
    assert "y" in cli.ok("verify", "m.onnx", "m.onnx").out
    error = onnx_condense.verify("m.onnx", "other.onnx").error
    assert 1e-3 < error < 1e-1
    assert f"{error:.3g}" in cli.fails(1, "verify", "m.onnx", "other.onnx")
    cli.fails(1, "verify", "m.onnx", "other.onnx", "--tolerance", f"{error * 0.99}")
    cli.ok("verify", "m.onnx", "other.onnx", "--tolerance", f"{error * 1.01}")


def test_verify_default_tolerance_is_1e_5(cli: Cli, save: Save) -> None:
    for factor, code in ((1 + 5e-6, 0), (1 + 2e-5, 1)):
        for name, scale in (("a.onnx", 1.0), ("b.onnx", factor)):
            text = "g (double[N, 4] x) => (double[N, 4] y) { y = Mul(x, s) }"
            save(builders.build(text, {"s": np.array([scale])}), name)
        assert cli.run("verify", "a.onnx", "b.onnx").code == code


def test_verify_uses_the_data(cli: Cli, save: Save) -> None:
    """The models differ for negative numbers only."""
    for name, op in (("a.onnx", "Relu"), ("b.onnx", "Abs")):
        save(builders.build(f"g (float[N, 4] x) => (float[N, 4] y) {{ y = {op}(x) }}"), name)
    np.savez("positive.npz", x=np.abs(builders.random(3, 4)))
    cli.fails(1, "verify", "a.onnx", "b.onnx")
    cli.ok("verify", "a.onnx", "b.onnx", "--data", "positive.npz")


def test_verify_counts_integer_outputs(cli: Cli, save: Save) -> None:
    for name, op in (("a.onnx", "ArgMax"), ("b.onnx", "ArgMin")):
        save(
            builders.build(f"g (float[N, 4] x) => (int64[N] y) {{ y = {op}<axis = 1, keepdims = 0>(x) }}"),
            name,
        )
    cli.ok("verify", "a.onnx", "a.onnx")
    cli.fails(1, "verify", "a.onnx", "b.onnx")


def test_verify_wants_the_same_outputs(cli: Cli, save: Save) -> None:
    save(builders.build("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), "a.onnx")
    save(builders.build("g (float[N, 4] x) => (float[N, 4] z) { z = Relu(x) }"), "b.onnx")
    assert "y" in cli.fails(2, "verify", "a.onnx", "b.onnx")


def test_verify_wants_the_same_inputs(cli: Cli, save: Save) -> None:
    save(builders.build("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), "a.onnx")
    save(builders.build("g (float[N, 5] z) => (float[N, 5] y) { y = Relu(z) }"), "b.onnx")
    cli.fails(2, "verify", "a.onnx", "b.onnx")


def test_verify_finds_other_shapes_of_outputs(cli: Cli, save: Save) -> None:
    save(builders.build("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), "a.onnx")
    save(builders.build("g (float[N, 4] x) => (float[4, N] y) { y = Transpose(x) }"), "b.onnx")
    cli.fails(1, "verify", "a.onnx", "b.onnx")
