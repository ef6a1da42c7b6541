"""The command line: every sentence of its contract is a test here, or in the test file of its module."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import builders
import numpy as np
import onnx
import pytest
from conftest import Cli, Save, shell, snapshot
from onnx import TensorProto, helper

import onnx_condense
from onnx_condense import pipeline, proof
from onnx_condense.alignment import block_width

OUT = "m.condensed.onnx"
SCRIPT = Path(sys.executable).with_name("onnx-condense")


def read(path: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content


def widths(report: Path | str) -> dict[str, tuple[int, int]]:
    """First layer of each group -> width before and after."""
    return {g["layers"][0]: (g["width_before"], g["width_after"]) for g in read(report)["groups"]}


def noisy() -> onnx.ModelProto:
    """An MLP that 0.88 condenses at a visible price."""
    return builders.mlp((8, 24, 24, 4), clusters=(6, 5), noise=0.2)


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
    save(custom_operator())
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


# ---------------------------------------------------------------------- what a run does


def test_condenses_to_the_planted_width(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 16, 3), clusters=(5, 4)))
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 5), "fc1": (16, 4)}
    small = onnx.load(OUT)
    assert builders.weight(small, "w1").shape == (4, 5)
    cli.ok("verify", "m.onnx", OUT)


def test_nothing_to_condense_is_the_input_byte_for_byte(cli: Cli, save: Save) -> None:
    path = save(builders.mlp((8, 8, 3)))
    path.write_bytes(
        path.read_bytes() + b"\x3a\x02\x12\x00"
    )  # an empty GraphProto field to merge: other bytes, same model
    outcome = cli.ok("m.onnx", "--report", "r.json")
    assert (cli.folder / OUT).read_bytes() == path.read_bytes()
    assert "nothing to condense" in outcome.out.lower()
    report = read("r.json")
    assert report["output"]["sha256"] == report["input"]["sha256"] == snapshot(cli.folder)[OUT]


def test_default_threshold_is_088(cli: Cli, save: Save) -> None:
    save(pair_at(0.885))
    save(pair_at(0.875), "less.onnx")
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (3, 2)}
    cli.ok("less.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (3, 3)}


def test_neurons_condense_above_the_threshold_not_at_it(cli: Cli, save: Save) -> None:
    rows = np.array([[1, 1, 1, 1], [1, 1, 1, -1]], dtype=np.float32)
    save(head(np.vstack([rows, 2 * rows[:1]])), "more.onnx")
    cli.ok("more.onnx", "--threshold", "0.5", "--report", "r.json")
    assert widths("r.json") == {"fc0": (3, 2)}
    save(head(rows))  # cosine exactly 1/2
    cli.ok("m.onnx", "--threshold", "0.5", "--report", "r.json")
    assert widths("r.json") == {"fc0": (2, 2)}
    cli.ok("m.onnx", "--threshold", "0.4999", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (2, 1)}


def test_threshold_one_merges_nothing(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, ratios=False))
    cli.ok("m.onnx", "--threshold", "1", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 16)}


@pytest.mark.parametrize("value", ["0", "-0.5", "1.0001", "nan", "inf", "half"])
def test_thresholds_out_of_range(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "threshold" in cli.fails(2, "m.onnx", f"--threshold={value}")
    assert "threshold" in cli.fails(2, "m.onnx", "--layer-threshold", f"fc0={value}")


@pytest.mark.parametrize("value", ["fc0", "=0.5", "fc0="])
def test_malformed_layer_thresholds(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "GLOB=T" in cli.fails(2, "m.onnx", "--layer-threshold", value)


@pytest.mark.parametrize(
    "extra", [("--threshold", "0.9"), ("--merge", "auto"), ("--merge", "ratio"), ("--merge", "delete")]
)
def test_lossless_excludes_threshold_and_merge(cli: Cli, save: Save, extra: tuple[str, str]) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "--lossless" in cli.fails(2, "m.onnx", "--lossless", *extra)


def test_lossless_merges_only_what_is_exact(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    save(builders.mlp((8, 16, 3), clusters=4, noise=0.01), "near.onnx")
    cli.ok("m.onnx", "--lossless", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    assert read("r.json")["verification"]["approximation_error"] < 1e-5
    cli.ok("near.onnx", "--lossless", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 16)}


def test_lossless_repeats_until_nothing_changes(cli: Cli, save: Save) -> None:
    """fc1's second neuron is read by nobody; without it nobody reads fc0's third, which comes first in the
    graph.
    """
    w1, w2 = builders.random(3, 3, seed=1), builders.random(2, 3, seed=2)
    w1[[0, 2], 2] = 0
    w2[:, 1] = 0
    save(head(builders.directions(3, 8).astype(np.float32), w1, w2))
    cli.ok("m.onnx", "--lossless", "--report", "r.json")
    assert widths("r.json") == {"fc0": (3, 2), "fc1": (3, 2)}


def test_layers_are_judged_on_original_weights_unless_sequential(cli: Cli, save: Save) -> None:
    """Two neurons of fc1 differ only in which of two nearly equal neurons of fc0 they read."""
    w0 = np.array([[1, 0, 0], [1, 0.3, 0], [0, 0, 1]], dtype=np.float32)
    w1 = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 3]], dtype=np.float32)
    save(head(w0, w1, builders.random(2, 3)))
    cli.ok("m.onnx", "--report", "one-shot.json")
    cli.ok("m.onnx", "--sequential", "--report", "sequential.json", "--force")
    assert widths("one-shot.json") == {"fc0": (3, 2), "fc1": (3, 3)}
    assert widths("sequential.json") == {"fc0": (3, 2), "fc1": (3, 2)}


def test_merge_ratio_is_better_than_delete(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    errors = {}
    for merge in ("auto", "ratio", "delete"):
        cli.ok("m.onnx", "--merge", merge, "--report", "r.json", "--force")
        assert widths("r.json") == {"fc0": (16, 4)}
        assert {g["method"] for g in read("r.json")["groups"]} == {merge}
        errors[merge] = read("r.json")["verification"]["approximation_error"]
    assert errors["auto"] == errors["ratio"] < 1e-5 < 0.1 < errors["delete"]


def test_only_auto_removes_what_nobody_reads(cli: Cli, save: Save) -> None:
    w1 = builders.random(2, 4)
    w1[:, 1] = 0
    save(head(builders.directions(4, 8).astype(np.float32), w1))
    for merge, width in (("auto", 3), ("ratio", 4)):
        cli.ok("m.onnx", "--merge", merge, "--report", "r.json", "--force")
        assert widths("r.json") == {"fc0": (4, width)}


def test_depthwise_kernel_judges_the_taps_alone(cli: Cli, save: Save) -> None:
    model = builders.separable(8, 4)
    builders.set_weight(model, "we", builders.directions(8, 4, limit=0.85).reshape(8, 4, 1, 1).astype(np.float32))
    save(model)
    for mode, width in (("joint", 8), ("kernel", 4)):
        cli.ok("m.onnx", "--depthwise", mode, "--align", "1", "--report", "r.json", "--force")
        assert [w for _, w in widths("r.json").values()] == [width]


def test_fold_batchnorm_folds_in_the_file_only_when_asked(cli: Cli, save: Save) -> None:
    save(builders.convnet(clusters=4, ratios=False, batchnorm=True))
    for options, count in (((), 2), (("--fold-batchnorm",), 0)):
        cli.ok("m.onnx", "--align", "1", "--report", "r.json", "--force", *options)
        assert [n.op_type for n in onnx.load(OUT).graph.node].count("BatchNormalization") == count
        assert widths("r.json") == {"conv0": (8, 4), "conv1": (8, 4)}
        cli.ok("verify", "m.onnx", OUT)


def pair_at(cosine: float) -> onnx.ModelProto:
    """A hidden layer of three neurons, of which two have this cosine."""
    rows = np.array([[1, 0, 0], [cosine, np.sqrt(1 - cosine**2), 0], [0, 0, 1]], dtype=np.float32)
    return head(rows)


def head(*layers: builders.Array) -> onnx.ModelProto:
    """Gemm layers `fc0`, … without bias and with Relu between; one layer alone gets a random last one."""
    matrices = [*layers] if len(layers) > 1 else [*layers, builders.random(2, len(layers[0]))]
    lines = []
    for index, _ in enumerate(matrices):
        last = index == len(matrices) - 1
        lines.append(f"[fc{index}] {'y' if last else f'z{index}'} = Gemm<transB = 1>(h{index}, w{index})")
        lines += [] if last else [f"[act{index}] h{index + 1} = Relu(z{index})"]
    inputs, outputs = matrices[0].shape[1], len(matrices[-1])
    text = f"g (float[N, {inputs}] h0) => (float[N, {outputs}] y) {{ {' '.join(lines)} }}"
    return builders.build(text, {f"w{index}": matrix for index, matrix in enumerate(matrices)})


# ---------------------------------------------------------------------- globs


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--include", "fc0"), {"fc0": 5}),
        (("--include", "w1"), {"fc1": 4}),
        (("--include", "fc*", "--exclude", "fc0"), {"fc1": 4}),
        (("--include", "fc1", "--exclude", "w[0-9]"), {}),
        (("--exclude", "b1"), {"fc0": 5}),
        (("--include", "fc0", "--include", "w1"), {"fc0": 5, "fc1": 4}),
    ],
)
def test_globs_match_node_or_weight_names_and_exclude_wins(
    cli: Cli, save: Save, options: tuple[str, ...], expected: dict[str, int]
) -> None:
    save(builders.mlp((8, 16, 16, 3), clusters=(5, 4)))
    cli.ok("m.onnx", "--report", "r.json", *options)
    condensed = {name: after for name, (before, after) in widths("r.json").items() if after < before}
    assert condensed == expected


@pytest.mark.parametrize("option", ["--include", "--exclude", "--layer-threshold"])
def test_a_glob_without_a_match(cli: Cli, save: Save, option: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    message = cli.fails(2, "m.onnx", option, "conv*=0.9" if option == "--layer-threshold" else "conv*")
    assert option in message and "conv*" in message


def test_layer_thresholds(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 16, 3), clusters=(5, 4), noise=0.02))
    cli.ok("m.onnx", "--layer-threshold", "w0=1", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 16), "fc1": (16, 4)}
    cli.ok(
        "m.onnx",
        "--layer-threshold",
        "fc*=1",
        "--layer-threshold",
        "fc0=0.9",
        "--report",
        "r.json",
        "--force",
    )
    assert widths("r.json") == {"fc0": (16, 5), "fc1": (16, 16)}
    cli.ok("m.onnx", "--threshold", "1", "--layer-threshold", "fc1=0.88", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (16, 16), "fc1": (16, 4)}


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


def test_replay_gives_the_same_bytes(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan holds what was measured on the host: another host's block width changes nothing."""
    save(builders.convnet((3, 48, 48), clusters=6, noise=0.1))
    cli.ok("m.onnx", "--threshold", "0.9", "--align", "auto", "--plan", "p.json")
    monkeypatch.setattr(pipeline, "block_width", lambda: 5)
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes() != Path("m.onnx").read_bytes()


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


# ---------------------------------------------------------------------- errors and tolerance


def test_surgery_limit_not_met(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    monkeypatch.setattr(proof, "surgery_limits", lambda noise: dict.fromkeys((o.name for o in noise.outputs), -1.0))
    message = cli.fails(1, "m.onnx", "--plan", "p.json", "--report", "r.json")
    assert "nothing is written" in message


def test_lossless_must_meet_the_surgery_limit(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    monkeypatch.setattr(proof, "surgery_limits", lambda noise: dict.fromkeys((o.name for o in noise.outputs), 1e-12))
    assert "--lossless" in cli.fails(1, "m.onnx", "--lossless")
    cli.ok("m.onnx", "--threshold", "0.99")


def test_tolerance_is_met_by_merging_less(cli: Cli, save: Save) -> None:
    save(noisy())
    cli.ok("m.onnx", "--report", "free.json")
    error = read("free.json")["verification"]["approximation_error"]
    bound = error / 3
    cli.ok("m.onnx", "--tolerance", str(bound), "--report", "bound.json", "--force")
    assert 0 < read("bound.json")["verification"]["approximation_error"] <= bound < error
    free, bounded = (sum(after for _, after in widths(f"{n}.json").values()) for n in ("free", "bound"))
    assert free < bounded < 48
    cli.ok("verify", "m.onnx", OUT, "--tolerance", str(bound))


def test_tolerance_that_is_met_anyway_changes_nothing(cli: Cli, save: Save) -> None:
    save(noisy())
    cli.ok("m.onnx", "--report", "free.json")
    cli.ok("m.onnx", "--tolerance", "10", "--report", "bound.json", "--force")
    assert widths("free.json") == widths("bound.json")


def test_tolerance_zero_can_always_be_met(cli: Cli, save: Save) -> None:
    path = save(noisy())
    cli.ok("m.onnx", "--tolerance", "0")
    assert Path(OUT).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("value", ["-1", "nan", "much"])
def test_tolerance_out_of_range(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "--tolerance" in cli.fails(2, "m.onnx", f"--tolerance={value}")
    assert "--tolerance" in cli.fails(2, "verify", "m.onnx", "m.onnx", f"--tolerance={value}")


def test_a_large_error_without_tolerance_warns(cli: Cli, save: Save) -> None:
    save(noisy())
    save(builders.mlp((8, 16, 3), clusters=4), "exact.onnx")
    warned = cli.ok("m.onnx", "--threshold", "0.5", "--report", "r.json")
    assert read("r.json")["verification"]["approximation_error"] > 0.1
    assert "warning" in warned.err and "--tolerance" in warned.err and len(warned.err.splitlines()) == 1
    assert len(read("r.json")["warnings"]) == 1
    assert cli.ok("exact.onnx", "--report", "r.json").err == ""
    assert read("r.json")["warnings"] == []


def test_a_tolerance_above_the_error_does_not_warn(cli: Cli, save: Save) -> None:
    save(noisy())
    assert cli.ok("m.onnx", "--threshold", "0.5", "--tolerance", "5").err == ""


# ---------------------------------------------------------------------- alignment


def test_alignment_rounds_conv_widths_up(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    for align, width in (("1", 5), ("4", 8), ("5", 5), ("7", 7), ("16", 16), ("32", 16)):
        cli.ok("m.onnx", "--align", align, "--report", "r.json", "--force")
        assert widths("r.json") == {"conv0": (16, width), "conv1": (16, width)}, f"--align {align}"


def test_alignment_leaves_gemm_alone(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=5))
    cli.ok("m.onnx", "--align", "16", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 5)}


def test_alignment_undoes_the_merges_of_lowest_cosine(cli: Cli, save: Save) -> None:
    model = builders.convnet((3, 8), clusters=3, noise=0.15)
    save(model)
    cli.ok("m.onnx", "--align", "1", "--plan", "free.json")
    cli.ok("m.onnx", "--align", "5", "--plan", "aligned.json", "--force")
    free, aligned = (read(f"{name}.json")["groups"][0] for name in ("free", "aligned"))
    merged = {j for j, m in enumerate(free["main"]) if m != j}
    still = {j for j, m in enumerate(aligned["main"]) if m != j}
    assert len(merged) == 5 and len(still) == 3 and still < merged
    assert min(free["cosine"][j] for j in still) > max(free["cosine"][j] for j in merged - still)


def test_held_back_merges_are_reported_with_the_way_out(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    outcome = cli.ok("m.onnx", "--align", "8", "--report", "r.json")
    assert "--align 1" in outcome.out and "conv0" in outcome.out
    assert [g["held_back"] for g in read("r.json")["groups"]] == [3, 3]
    assert "--align 1" not in cli.ok("m.onnx", "--align", "1", "--force").out


def test_held_back_to_the_original_width_is_reported(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    outcome = cli.ok("m.onnx", "--align", "16", "--report", "r.json")
    assert Path(OUT).read_bytes() == Path("m.onnx").read_bytes()
    assert [g["held_back"] for g in read("r.json")["groups"]] == [11, 11]
    assert "--align 1" in outcome.out


def test_automatic_alignment_is_the_hosts(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 48), clusters=5))
    cli.ok("m.onnx", "--report", "r.json", "--plan", "p.json")
    width = block_width()
    assert read("p.json")["align"] == width
    assert widths("r.json")["conv0"] == (48, -(-5 // width) * width)


@pytest.mark.parametrize("value", ["0", "-4", "some", "2.5"])
def test_bad_alignments(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "--align" in cli.fails(2, "m.onnx", f"--align={value}")


# ---------------------------------------------------------------------- inputs


def test_data_gives_the_inputs(cli: Cli, save: Save) -> None:
    save(noisy())
    data = builders.random(5, 8, seed=3)
    np.savez("d.npz", x=data, unrelated=np.zeros(2))
    cli.ok("m.onnx", "--data", "d.npz", "--report", "r.json")
    found = read("r.json")["verification"]
    assert found["samples"] == 5 and found["generated"] is False
    measured = onnx_condense.verify("m.onnx", OUT, {"x": data}).error
    assert found["approximation_error"] == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize(
    "arrays", [{"z": (5, 8)}, {"x": (5, 9)}, {"x": (8,)}, {"x": (0, 8)}, {"x": (5, 2, 8, 1)}], ids=str
)
def test_data_that_does_not_fit(cli: Cli, save: Save, arrays: dict[str, tuple[int, ...]]) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    filled: dict[str, Any] = {name: np.ones(shape, dtype=np.float32) for name, shape in arrays.items()}
    np.savez("d.npz", **filled)
    assert " x" in cli.fails(2, "m.onnx", "--data", "d.npz")


def test_data_that_is_no_npz(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    Path("text.npz").write_text("hello")
    Path("empty.npz").write_bytes(b"")
    np.save("array.npy", np.zeros((2, 8)))
    np.savez("pickled.npz", x=np.array([None, {}], dtype=object))
    np.savez("good.npz", x=builders.random(4, 8))
    Path("cut.npz").write_bytes(Path("good.npz").read_bytes()[:-40])
    for name in ("text.npz", "empty.npz", "array.npy", "pickled.npz", "missing.npz", "cut.npz", "."):
        cli.fails(2, "m.onnx", "--data", name)


def test_data_of_another_type(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    np.savez("text.npz", x=np.array([["a"] * 8, ["b"] * 8]))
    cli.fails(2, "m.onnx", "--data", "text.npz")


def test_seeds_change_the_inputs_and_nothing_else(cli: Cli, save: Save) -> None:
    save(noisy())
    found = []
    for seed in ("0", "0", "1"):
        cli.ok("m.onnx", "--seed", seed, "--report", "r.json", "--force")
        found.append((read("r.json")["verification"]["approximation_error"], widths("r.json")))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0] and found[0][1] == found[2][1]


def test_input_shape_fills_symbolic_dimensions(cli: Cli, save: Save) -> None:
    save(two_sided())
    cli.ok("m.onnx", "--input-shape", "x=2x3x5x7", "--plan", "p.json", "--align", "1")
    assert read("p.json")["input_shapes"] == {"x": [2, 3, 5, 7]}


@pytest.mark.parametrize(
    "value", ["z=1x3x8x8", "x=1x3x8", "x=1x4x8x8", "x=0x3x8x8", "x", "x=", "=1x3", "x=1xax3x3", "x=-1x3x8x8"]
)
def test_input_shapes_that_do_not_fit(cli: Cli, save: Save, value: str) -> None:
    save(two_sided())
    assert "--input-shape" in cli.fails(2, "m.onnx", "--input-shape", value)


def test_contradictory_input_shape_and_data(cli: Cli, save: Save) -> None:
    save(two_sided())
    np.savez("d.npz", x=builders.random(2, 3, 5, 7))
    cli.fails(2, "m.onnx", "--data", "d.npz", "--input-shape", "x=1x3x9x9")


def two_sided() -> onnx.ModelProto:
    """A Conv net whose batch and image size are symbolic."""
    model = builders.convnet(clusters=4)
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model


# ---------------------------------------------------------------------- models that cannot be used


def custom_operator() -> onnx.ModelProto:
    return builders.build(
        "g (float[N, 8] x) => (float[N, 3] y) { h = mine.NoSuchOperator(x) y = MatMul(h, w) }",
        {"w": builders.random(8, 3)},
        domains={"mine": 1},
        check=False,
    )


def string_input() -> onnx.ModelProto:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER")
    inputs = [helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])]
    return helper.make_model(helper.make_graph([node], "g", inputs, outputs), ir_version=8)


def unknown_initializer() -> onnx.ModelProto:
    return builders.build("g (float[N, 8] x) => (float[N, 3] y) { y = MatMul(x, w) }", check=False)


def cyclic() -> onnx.ModelProto:
    return builders.build("g (float[N, 8] x) => (float[N, 8] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }", check=False)


@pytest.mark.parametrize("make", [custom_operator, string_input, unknown_initializer, cyclic])
@pytest.mark.parametrize("command", [(), ("inspect",)])
def test_models_that_onnxruntime_or_we_cannot_run(cli: Cli, save: Save, make: Any, command: tuple[str, ...]) -> None:
    save(make())
    cli.fails(2, *command, "m.onnx")


def broken_files(folder: Path) -> dict[str, Path]:
    good = builders.mlp((8, 16, 3)).SerializeToString()
    contents = {
        "empty": b"",
        "text": b"hello world\n" * 20,
        "json": b'{"a": 1}',
        "binary": bytes(range(256)) * 8,
    }
    contents |= {f"cut{share}": good[: len(good) * share // 100] for share in range(4, 100, 8)}
    contents["no graph"] = onnx.ModelProto(ir_version=8).SerializeToString()
    for name, content in contents.items():
        (folder / f"{name}.onnx").write_bytes(content)
    (folder / "folder.onnx").mkdir()
    names = [*contents, "folder", "missing"]
    return {name: folder / f"{name}.onnx" for name in names}


def test_broken_files(cli: Cli, save: Save) -> None:
    good = save(builders.mlp((8, 16, 3)))
    for name, path in broken_files(cli.folder).items():
        for arguments in ((path,), ("inspect", path), ("verify", path, good), ("verify", good, path)):
            assert path.stem in cli.fails(2, *arguments), f"{name}: {arguments}"


def test_flipped_bytes_are_never_an_internal_error(cli: Cli, save: Save) -> None:
    """A damaged file is bad input (2), or still a model (0, or 1 where its numbers no longer allow a
    verification).
    """
    data = builders.mlp((4, 6, 2), clusters=2).SerializeToString()
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            damaged[place] ^= 1 << int(generator.integers(0, 8))
        Path("m.onnx").write_bytes(damaged)
        outcome = cli.run("m.onnx", "--force")
        assert outcome.code in (0, 1, 2)
        if outcome.code:
            assert outcome.error
            assert not outcome.written


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_model(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3))).chmod(0)
    assert "m.onnx" in cli.fails(2, "m.onnx")


# ---------------------------------------------------------------------- models that can


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_precisions(cli: Cli, save: Save, dtype: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, dtype=dtype))
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    kinds = {t.data_type for t in onnx.load(OUT).graph.initializer}
    assert kinds == {TensorProto.FLOAT16 if dtype == "float16" else TensorProto.DOUBLE}


@pytest.mark.parametrize("batch", ["N", "1", "3"])
def test_batch_dimension_stays_as_it_is(cli: Cli, save: Save, batch: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, batch=batch))
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    for before, after in zip(signature(Path("m.onnx")), signature(Path(OUT)), strict=True):
        assert before == after


def signature(path: Path) -> list[onnx.ValueInfoProto]:
    graph = onnx.load(path).graph
    return [*graph.input, *graph.output]


def test_nodes_need_no_names(cli: Cli, save: Save) -> None:
    model = builders.mlp((8, 16, 16, 3), clusters=(5, 4))
    for node in model.graph.node:
        node.name = ""
    save(model)
    cli.ok("m.onnx", "--report", "r.json")
    assert sorted((g["width_before"], g["width_after"]) for g in read("r.json")["groups"]) == [
        (16, 4),
        (16, 5),
    ]
    assert {n.name for n in onnx.load(OUT).graph.node} == {""}
    cli.ok("inspect", "m.onnx")


def test_equal_node_names_are_refused_as_onnxruntime_does(cli: Cli, save: Save) -> None:
    model = builders.mlp((8, 16, 16, 3), clusters=(5, 4))
    for node in model.graph.node:
        node.name = "same"
    save(model)
    assert "same" in cli.fails(2, "m.onnx")


def test_initializers_that_are_also_inputs(cli: Cli, save: Save) -> None:
    """As before IR version 4: they are weights, and are declared in their new sizes."""
    model = builders.mlp((8, 16, 3), clusters=4, opset=9)
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
    )
    onnx.checker.check_model(model, full_check=True)
    save(model)
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    small = onnx.load(OUT)
    onnx.checker.check_model(small, full_check=True)
    assert small.ir_version == 3
    sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in small.graph.input}
    assert sizes["w0"] == [4, 8] and sizes["b0"] == [4] and sizes["w1"] == [3, 4]


def test_constant_nodes_are_weights(cli: Cli, save: Save) -> None:
    model = builders.mlp((8, 16, 3), clusters=4)
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        model.graph.initializer.remove(tensor)
    save(model)
    cli.ok("m.onnx", "--report", "r.json")
    report = read("r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    assert report["input"]["parameters"] == 16 * 8 + 16 + 3 * 16 + 3
    assert report["output"]["parameters"] == 4 * 8 + 4 + 3 * 4 + 3
    assert Path(OUT).stat().st_size < Path("m.onnx").stat().st_size
    cli.ok("verify", "m.onnx", OUT)


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
    return head(rows)


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
