"""`onnx-condense auto` as users run it: a real trainer, kills, the status, errors of one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console
from support import builders
from support.apart import apart
from support.cli import Cli, Save, listening
from support.schemas import check_schema
from support.scripted import Scripted

from onnx_condense import Options
from onnx_condense.auto.folder import Folder
from onnx_condense.cli.auto_figure import plot
from onnx_condense.cli.auto_table import show
from onnx_condense.cli.commands import AUTO
from onnx_condense.finetune import Settings, run

TOOLS = Path(__file__).parents[2] / "tools"
DIGITS = f"'{sys.executable}' '{TOOLS / 'digits_trainer.py'}'"
IDLE = """
import argparse, json, shutil, sys, time
p = argparse.ArgumentParser()
for name in ("--model", "--output", "--metrics", "--steps", "--learning-rate"): p.add_argument(name)
p.add_argument("--evaluate-only", action="store_true")
a = p.parse_args()
shutil.copy(a.model, a.output)
open(a.metrics, "w").write(json.dumps({"score": 0.9}))
"""


@pytest.fixture
def idle(tmp_path: Path) -> str:
    """A trainer that changes nothing and always scores 0.9."""
    script = tmp_path / "idle.py"
    script.write_text(IDLE)
    return f"'{sys.executable}' '{script}'"


def small(save: Save) -> Path:
    return save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))


QUICK = ("--rounds", "1", "--last-step-limit", "1")

# ---------------------------------------------------------------------- runs


def test_a_run_prints_its_turns_and_leaves_the_result(cli: Cli, save: Save, idle: str) -> None:
    small(save)
    outcome = cli.ok("auto", "m.onnx", "--trainer", idle, "--work", "w", *QUICK)
    assert outcome.err == ""
    for words in (
        "the model scores 0.9",
        "round 1: 1 layers",
        "fc0 at 0.8808",
        "the last layer, fc1",
        "Done: all rounds are made. 55 of 139 parameters (39.6%), score 0.9000 where it was 0.9000: w/result.onnx",
    ):
        assert words in outcome.out
    sizes = [builders.weight(onnx.load("w/result.onnx"), name).shape for name in ("w0", "w1", "w2")]
    assert sizes[0] == (5, 4)
    assert sizes[2][1] < 8
    again = cli.ok("auto", "m.onnx", "--trainer", idle, "--work", "w", *QUICK)
    assert "going on in w after" in again.out
    assert "Done: all rounds" in again.out
    assert again.written <= {"w/trainer.log"}


def test_the_digits_lose_most_parameters_and_little_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tools/auto_merges.py does; the accuracy is on images that the trainer does not see."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import digits_trainer

    trainer = digits_trainer.Digits()
    model, first = trainer.train(digits_trainer.new([128, 64], 1.0, 1), 100, 2e-3, 0)
    start = first["score"]
    spans = {"criterion": (start - 0.005, start - 0.01), "layer_criterion": (start - 0.03, start - 0.03)}
    limits = {"main_step_limit": 40, "last_step_limit": 10}
    settings = Settings(
        **spans, last_criterion=start - 0.01, deviation_score=0.5, learning_rate=(3e-3, 1e-3), until=0.3, **limits
    )
    state = run(model, trainer, tmp_path / "w", settings, Options(align=1))
    assert state.reason == "until"
    assert state.result is not None
    assert state.result.score is not None
    assert state.result.parameters <= 0.3 * state.start.parameters
    assert state.result.score >= start - 0.01
    written = onnx.load(tmp_path / "w" / "result.onnx")
    assert trainer.evaluate(written)["score"] == state.result.score


@pytest.mark.parametrize(("kills", "options"), [(3, ()), (2, ("--calibrated",))])
def test_killed_runs_end_like_undisturbed_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kills: int, options: tuple[str, ...]
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    import kill_auto

    kill_auto.main(["--kills", str(kills), "--brief", *options])
    assert f"{kills} kills" in capsys.readouterr().out


def test_calibration_inputs_from_a_file(tmp_path: Path, save: Save, idle: str) -> None:
    save(builders.mlp((4, 12, 12, 3), seed=3))
    np.savez(tmp_path / "inputs.npz", x=builders.random(40, 4))
    np.savez(tmp_path / "other.npz", x=builders.random(40, 4, seed=1))
    run = ("auto", "m.onnx", "--trainer", idle, "--work", "w", "--align", "1", "--threshold-start=-1", *QUICK)
    first = apart(*run, "--calibration", "inputs.npz", cwd=tmp_path)
    assert (first.code, first.err) == (0, "")
    assert '"merge": "calibrated"' in (tmp_path / "w" / "journal.jsonl").read_text()
    again = apart(*run, "--calibration", "inputs.npz", "--merge", "calibrated", cwd=tmp_path)
    assert again.code == 0
    assert again.written <= {"w/trainer.log"}
    for options, words in {
        ("--calibration", "other.npz"): "began with other --calibration inputs",
        ("--calibration", "inputs.npz", "--calibration", "other.npz"): "began with other --calibration inputs",
        ("--merge", "auto"): "began with --merge calibrated, not auto",
        ("--merge", "calibrated"): "give them with --calibration",
        ("--merge", "delete", "--calibration", "inputs.npz"): "not used with --merge delete",
        ("--calibration", "none.npz"): "none.npz",
        ("--calibration", "m.onnx", "--work", "v"): "pass an .npz",
    }.items():
        outcome = apart(*run, *options, cwd=tmp_path)
        assert outcome.code == 2
        assert words in outcome.error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_ending_a_run_ends_its_trainer(tmp_path: Path, save: Save, number: signal.Signals) -> None:
    small(save)
    (tmp_path / "hang.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    program = [sys.executable, "-m", "onnx_condense", "auto", "m.onnx", "--trainer", f"{sys.executable} hang.py"]
    options = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True, "preexec_fn": listening}
    with subprocess.Popen([*program, "--work", "w"], **options) as run:
        try:
            pid = wait_for(tmp_path / "pid")
            run.send_signal(number)
            assert run.wait(30) == 1
        finally:
            run.kill()
        assert run.stderr is not None
        assert "the same command goes on" in run.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def wait_for(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize(
    ("trainer", "code", "words"),
    [
        ("false", 1, "ended with code 1"),
        ("/no/such/trainer", 2, "cannot be started"),
        ("'", 2, "cannot be read"),
        ("true", 1, "wrote no metrics"),
    ],
)
def test_a_trainer_that_does_not_work_is_one_line(cli: Cli, save: Save, trainer: str, code: int, words: str) -> None:
    small(save)
    outcome = cli.run("auto", "m.onnx", "--trainer", trainer, "--work", "w", "--trainer-retries", "0")
    assert outcome.code == code
    assert words in outcome.error


def test_a_repeated_call_warns(cli: Cli, save: Save, idle: str, tmp_path: Path) -> None:
    small(save)
    once = "import pathlib\nif not pathlib.Path('failed').exists():\n    open('failed', 'w'); raise SystemExit(7)\n"
    (tmp_path / "idle.py").write_text(once + IDLE)
    outcome = cli.run("auto", "m.onnx", "--trainer", idle, "--work", "w", *QUICK)
    assert outcome.code == 0
    assert "warning: the trainer ended with code 7" in outcome.err


def test_a_run_that_falls_short_exits_1(cli: Cli, save: Save, idle: str) -> None:
    small(save)
    options = ("--until", "params=0.01", "--patience", "1", "--last-step-limit", "1")
    assert cli.run("auto", "m.onnx", "--trainer", idle, "--work", "w", *options).code == 1


def test_negative_scores(cli: Cli, save: Save, idle: str, tmp_path: Path) -> None:
    small(save)
    (tmp_path / "idle.py").write_text(IDLE.replace("0.9", "-0.5"))
    command = ("auto", "m.onnx", "--trainer", idle, "--work", "w", *QUICK)
    outcome = cli.run(*command)
    assert outcome.code == 2
    assert "where scores are not positive, say --criterion" in outcome.error
    explicit = (
        "--criterion=-0.6:-0.7",
        "--layer-criterion=-0.8",
        "--last-criterion",
        "-0.8",
        "--deviation-score",
        "-9",
    )
    cli.ok(*(*command[:-4], "--work", "v", *QUICK), *explicit)


def test_a_file_named_auto_is_reached_by_its_path(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4), "auto")
    cli.ok("./auto", "-o", "out.onnx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("m.onnx",), "--work"),
        (("m.onnx", "--work", "w"), "--trainer"),
        (("--work", "w", "--status", "m.onnx"), "drop MODEL"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--json"), "go with --status"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--criterion", "a:b"), "0.88:0.85"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--criterion", "0.8:0.9"), "--criterion"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--until", "0.5"), "params=0.115"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--until", "params=2"), "--until"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--last-layer-threshold", "none"), "or off"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--rounds", "0"), "--rounds"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--trainer-timeout", "-1"), "--trainer-timeout"),
        (("m.onnx", "--work", "w", "--trainer", "x", "--threshold", "0.9"), "--threshold"),
        (("m.onnx", "--work", ".", "--trainer", "x"), "lies in --work"),
        (("none.onnx", "--work", "w", "--trainer", "x"), "none.onnx"),
        (("--work", "w", "--status"), "no run in w"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(cli: Cli, save: Save, arguments: tuple[str, ...], words: str) -> None:
    small(save)
    assert words in cli.fails(2, "auto", *arguments)


# ---------------------------------------------------------------------- status


@pytest.fixture
def done(cli: Cli, save: Save, idle: str) -> Cli:
    small(save)
    cli.ok("auto", "m.onnx", "--trainer", idle, "--work", "w", "--quiet", *QUICK)
    return cli


def test_the_status_as_json(done: Cli) -> None:
    content = json.loads(done.ok("auto", "--work", "w", "--status", "--json").out)
    check_schema("auto-status", content)
    (row,) = content["rounds"]
    assert list(row) == ["criterion", "layer_criterion", "parameters", "score", "steps"]
    assert (row["score"], row["steps"], content["reverts"]) == (0.9, 1, [0])
    assert row["criterion"] == pytest.approx(0.88 * 0.9 / 0.8816)
    assert content["start"]["parameters"] > row["parameters"] > content["result"]["parameters"]
    assert (content["phase"], content["running"], content["reason"]) == ("done", False, "rounds")
    assert content["result"]["path"] == "w/result.onnx"
    assert list(content)[:4] == ["format", "version", "tool", "host"]


def test_the_status_as_a_table(done: Cli) -> None:
    outcome = done.ok("auto", "--work", "w", "--status")
    for words in ("w: done", "layer criterion", "0.89837", "result", "Done: all rounds are made."):
        assert words in outcome.out
    assert not outcome.written, "looking changes nothing"


def test_the_status_of_a_run_at_work(done: Cli, tmp_path: Path) -> None:
    """At every line of the journal, the last one being written."""
    journal = tmp_path / "w" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    seen = []
    for count in range(1, len(lines) + 1):
        journal.write_bytes(b"".join(lines[:count]) + b'{"ev')
        outcome = done.ok("auto", "--work", "w", "--status")
        seen.append(outcome.out.splitlines()[-1].split(";")[0])
        json.loads(done.ok("auto", "--work", "w", "--status", "--json").out)
    assert seen[0] == "scoring the model"
    assert any("fc0 at threshold 0.8808: 0 of 1 steps, criterion 0.8167" in line for line in seen)


def test_the_figure(done: Cli) -> None:
    pytest.importorskip("matplotlib")
    outcome = done.ok("auto", "--work", "w", "--status", "--plot", "f.svg", "--quiet")
    assert outcome.written == {"f.svg"}
    text = Path("f.svg").read_text()
    for words in ("score", "parameters", "threshold", "main criterion", " fc0"):
        assert f"<!-- {words} -->" in text
    assert "--plot" in done.fails(2, "auto", "--work", "w", "--status", "--plot", "f.docx")


def test_the_figure_of_many_layers_with_long_names(tmp_path: Path) -> None:
    """The legend leaves room for the curves: matplotlib warns where it does not."""
    pytest.importorskip("matplotlib")
    model = builders.mlp((4, *[6] * 18, 3), clusters=5)
    for number, node in enumerate(model.graph.node):
        node.name = f"/features/features.{number}/conv/conv.1/conv.1.0/Conv"
    settings = Settings((0.88, 0.85), (0.84, 0.81), 0.8, 0.5, rounds=1, last_step_limit=1)
    run(model, Scripted(), tmp_path / "w", settings, Options(align=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot(Folder(tmp_path / "w"), tmp_path / "f.png")


def test_the_figure_without_matplotlib(done: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_condense.extras.find_spec", lambda name: None)
    assert "[plot]'" in done.fails(2, "auto", "--work", "w", "--status", "--plot", "f.svg")


class AtWork(Folder):
    """A folder that says so often that a run is at work in it."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path)
        self.left = times

    def busy(self) -> bool:
        self.left -= 1
        return self.left >= 0


def test_the_status_follows_a_run_on_a_terminal(done: Cli) -> None:
    console = Console(force_terminal=True, width=150, record=True)
    folder = AtWork(Path("w"), 3)
    show(console, folder, refresh=0.01)
    assert "Done: all rounds are made." in console.export_text()
    assert folder.left < 0, "it looked until the run ended"


def test_every_constant_is_an_option() -> None:
    assert AUTO.parse(["m.onnx", "--work", "w"]).of(Settings) == Settings()
    options = {row.option for row in AUTO.rows()}
    for field in fields(Settings):
        assert "--" + field.name.replace("_", "-") in options


def test_the_status_as_a_page(done: Cli) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    given = ("auto", "--work", "w", "--status", "--report", "r.html", "--report", "r.json", "--quiet")
    assert done.ok(*given).written == {"r.html", "r.json"}
    content, text = json.loads(Path("r.json").read_text()), Path("r.html").read_text()
    for number in (content["result"]["parameters"], content["rounds"][0]["criterion"]):
        assert f'<data value="{number}"' in text
    assert "Score and parameters over training steps" in text
    assert f"it ended because {content['ended']}" in text
    assert "--force" in done.fails(2, *given)
    assert "--status" in done.fails(2, "auto", "m.onnx", "--trainer", "t", "--work", "v", "--report", "r.html")
