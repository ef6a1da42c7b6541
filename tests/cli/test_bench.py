"""`onnx-condense bench` as users run it."""

from __future__ import annotations

import json

import pytest
from support import builders
from support.apart import apart
from support.cli import Cli, Save

LARGE = {"u": builders.random(8, 40000), "v": builders.random(40000, 3)}
QUICK = ("--seconds", "0.2", "--threads", "1")
RACES = 4


def test_two_models_side_by_side(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    save(
        builders.build("g (float[N, 8] x) => (float[N, 3] y) { h = MatMul(x, u) y = MatMul(h, v) }", LARGE),
        "large.onnx",
    )
    for _ in range(RACES):  # where others hold the cores, a race may be no result
        outcome = cli.ok("bench", "m.onnx", "large.onnx", *QUICK)
        if "too unstable" not in outcome.out:
            break
    assert not outcome.written
    for text in ("median", "p90", "p99", "samples/s", "load", "memory", "m.onnx", "large.onnx", "1 thread", "slower"):
        assert text in outcome.out, text


def test_profiles_side_by_side(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16)))
    save(builders.convnet((3, 8, 8)), "small.onnx")
    out = cli.ok("bench", "m.onnx", "small.onnx", "--profile", *QUICK).out
    assert "Time per operator type" in out
    assert "Time per node" in out
    (row,) = [line for line in out.splitlines() if line.split()[1:2] == ["Conv"]]
    assert len([cell for cell in row.split("│") if cell.strip().replace(".", "").replace("e-", "").isdigit()]) == 2


def test_json_is_all_that_is_printed(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    outcome = cli.ok("bench", "m.onnx", "m.onnx", "--batch", "1,8", "--json", "--profile", *QUICK)
    content = json.loads(outcome.out)
    assert content["format"] == "onnx-condense-benchmark"
    assert content["version"] == 1
    assert content["host"].keys() == {"onnx", "onnxruntime", "numpy", "machine", "system"}
    assert [b["batch"] for b in content["batches"]] == [1, 8]
    row = content["batches"][1]["models"][1]
    assert row.keys() >= {"median", "p90", "p99", "throughput", "load_seconds", "peak_memory", "ratio", "verdict"}
    assert content["batches"][0]["profiles"][0]["operators"]
    assert content["threads"] == 1
    assert content["provider"] == "CPUExecutionProvider"


def test_a_model_named_like_a_subcommand_is_reached_by_its_path(cli: Cli, save: Save) -> None:
    for name in ("bench", "inspect", "verify"):
        save(builders.mlp((8, 16, 3), clusters=4), name)
        assert cli.ok(f"./{name}").written == {f"{name}.condensed.onnx"}
    assert "Latency" in cli.ok("bench", "./bench", *QUICK).out
    assert "Latency" in cli.ok("bench", "bench", *QUICK).out
    assert "--help" in cli.fails(2, "bench"), "the subcommand, without a model"


def test_it_runs_as_a_program(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    outcome = apart("bench", "m.onnx", *QUICK, cwd=cli.folder)
    assert outcome.code == 0
    assert "Latency" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.onnx",), "missing.onnx"),
        (("m.onnx", "missing.onnx"), "missing.onnx"),
        (("m.onnx", "--batch", "1,x"), "--batch"),
        (("m.onnx", "--batch", "0"), "--batch"),
        (("m.onnx", "--threads", "-1"), "--threads"),
        (("m.onnx", "--seconds", "0"), "--seconds"),
        (("m.onnx", "--provider", "NoSuch"), "CPUExecutionProvider"),
        (("m.onnx", "--input-shape", "z=1x8"), "--input-shape"),
        (("m.onnx", "--data", "none.npz"), "none.npz"),
        (("m.onnx", "other.onnx"), "other.onnx"),
        (("broken.onnx",), "broken.onnx"),
    ],
)
def test_what_does_not_work_is_one_line(cli: Cli, save: Save, arguments: tuple[str, ...], words: str) -> None:
    save(builders.mlp((8, 16, 3)))
    save(builders.mlp((9, 16, 3)), "other.onnx")
    save(builders.mlp((8, 16, 3)), "broken.onnx").write_bytes(b"\x08no model")
    assert words in cli.fails(2, "bench", *arguments)


def test_providers_have_short_names(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    assert cli.ok("bench", "m.onnx", "--provider", "CPU", *QUICK).code == 0
