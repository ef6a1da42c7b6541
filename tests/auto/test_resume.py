"""Trainers that fail, runs that are cut short, commands that change: a run goes on, or says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import builders
from support.scripted import PAPER, PLAIN, Failing, Scripted, Wandering, deep, events, go

from onnx_condense import InputError, Options, TrainerError, UsageError, VerificationError, __version__
from onnx_condense.auto.folder import Folder
from onnx_condense.auto.loop import Loop
from onnx_condense.auto.machine import replay
from onnx_condense.auto.status import status
from onnx_condense.auto.trainer import Checked
from onnx_condense.finetune import Settings, State

# ---------------------------------------------------------------------- trainers that fail


def test_a_failed_call_is_repeated_once(tmp_path: Path) -> None:
    trainer = Failing(0, 2)
    state = go(tmp_path, trainer, replace(PAPER, rounds=1))
    assert state.reason == "rounds"
    assert not events(tmp_path / "work", "reverted")


def test_the_first_score_must_come(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"RuntimeError: out of memory$"):
        go(tmp_path, Failing(0, 1))
    assert [e["event"] for e in Folder(tmp_path / "work").events()] == ["begin"]


def test_an_attempt_whose_training_fails_is_reverted(tmp_path: Path) -> None:
    state = go(tmp_path, Failing(1, 2), replace(PAPER, rounds=1))
    (reverted,) = events(tmp_path / "work", "reverted")
    assert (reverted["reason"], reverted["layer"]) == ("trainer", ["fc0"])
    assert state.reason == "rounds"


def test_a_trainer_that_fails_on_the_save_point_too_is_broken_and_nothing_is_reverted(tmp_path: Path) -> None:
    """As after a restart without its disk or its driver: the run stops, and ends like an undisturbed one."""
    settings = replace(PAPER, rounds=1)
    with pytest.raises(TrainerError, match="out of memory"):
        go(tmp_path, Failing(*range(1, 100)), settings)
    assert not events(tmp_path / "work", "reverted")
    state = go(tmp_path, Scripted(), settings)
    (tmp_path / "b").mkdir()
    assert state == go(tmp_path / "b", Scripted(), settings)


def test_failures_in_a_row_stop_the_run_which_can_go_on(tmp_path: Path) -> None:
    class Untrainable(Scripted):
        def train(self, *_: Any) -> Any:
            raise RuntimeError("out of memory")

    settings = replace(PAPER, rounds=1)
    with pytest.raises(TrainerError, match="out of memory"):
        go(tmp_path, Untrainable(), settings)
    assert len(events(tmp_path / "work", "reverted")) == 2
    assert go(tmp_path, Scripted(), settings).reason == "rounds"


def test_training_before_a_round_must_work(tmp_path: Path) -> None:
    trainer = Failing(1, 2, score=0.5)
    with pytest.raises(TrainerError):
        go(tmp_path, trainer)
    assert [e["event"] for e in Folder(tmp_path / "work").events()] == ["begin", "evaluated"]


def test_a_layer_above_the_surgery_limit_stays(tmp_path: Path) -> None:
    def refuse(*_: object) -> onnx.ModelProto:
        raise VerificationError("surgery error above the limit")

    settings = replace(PAPER, rounds=1)
    with pytest.raises(TrainerError):
        go(tmp_path, Failing(0, 1), settings)  # the journal has its first line
    folder = Folder(tmp_path / "work")
    begun = folder.events()
    with folder.opened():
        trainer = Checked(Scripted(), 0)
        state = Loop(folder, trainer, PLAIN, begun[0], replay(settings, begun), reduce=refuse).run()
    assert state.reason == "rounds"
    assert state.now.model == state.start.model
    assert events(tmp_path / "work", "reduced")
    assert all("surgery" in e["refused"] for e in events(tmp_path / "work", "reduced"))


# ---------------------------------------------------------------------- resuming

WANDERING = Settings((0.83, 0.82), (0.82, 0.81), 0.81, 0.1, step_limit=2, last_step_limit=3, rounds=2, threshold_up=2.0)


def test_the_state_is_a_function_of_the_journal(tmp_path: Path) -> None:
    def watch(state: State, _: Mapping[str, Any]) -> None:
        folder = Folder(tmp_path / "work")
        assert replay(WANDERING, json.loads(json.dumps(folder.events()))) == state
        stored = {path.stem for path in (folder.path / "models").iterdir()}
        assert stored == state.models(), "exactly what is needed is there"
        assert len(stored) <= 5 + WANDERING.keep_rounds

    state = go(tmp_path, Wandering(), WANDERING, watch=watch)
    assert events(tmp_path / "work", "reverted"), "some attempts failed"
    assert len(state.rows) == 2


def test_a_run_goes_on_from_every_line(tmp_path: Path) -> None:
    """Killed after any line, or while writing it: the rest is the same."""
    models, kept = tmp_path / "work" / "models", tmp_path / "kept"

    def keep(*_: object) -> None:
        shutil.copytree(models, kept, dirs_exist_ok=True)

    whole = go(tmp_path, Wandering(), WANDERING, watch=keep)
    journal = tmp_path / "work" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for cut, line in list(enumerate(lines))[1::3]:
        journal.write_bytes(b"".join(lines[:cut]) + line[: len(line) // 2])
        shutil.copytree(kept, models, dirs_exist_ok=True)
        assert go(tmp_path, Wandering(), WANDERING) == whole


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    settings = replace(PAPER, rounds=1)
    state = go(tmp_path, Scripted(), settings)
    before = (tmp_path / "work" / "journal.jsonl").read_bytes()
    assert go(tmp_path, Failing(0, 1, 2, 3), settings) == state
    assert (tmp_path / "work" / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": replace(PAPER, rounds=1, step_limit=19)}, "--step-limit 20, not 19"),
        ({"options": replace(PLAIN, merge="ratio")}, "--merge delete, not ratio"),
        ({"options": replace(PLAIN, align=4)}, "--align 1, not 4"),
        ({"model": deep(3)}, "another model"),
    ],
)
def test_another_command_does_not_resume(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    same: dict[str, Any] = {"settings": replace(PAPER, rounds=1), "options": PLAIN, "model": deep(2)}
    go(tmp_path, Scripted(), **same)
    with pytest.raises(UsageError, match=words):
        go(tmp_path, Scripted(), **same | change)


def test_a_line_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    settings = replace(PAPER, rounds=1)
    go(tmp_path, Scripted(), settings)
    journal = tmp_path / "work" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], *lines[4:]]))
    with pytest.raises(InputError, match="line 4"):
        go(tmp_path, Scripted(), settings)


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    settings = replace(PAPER, rounds=1)
    go(tmp_path, Scripted(), settings)
    journal = tmp_path / "work" / "journal.jsonl"
    whole = journal.read_text()
    for old, new in (('"version": 1', '"version": 2'), ('"rounds": 1', '"laps": 1'), ('"settings"', '"constants"')):
        journal.write_text(whole.replace(old, new, 1))
        with pytest.raises(InputError, match="another version"):
            go(tmp_path, Scripted(), settings)
        with pytest.raises(InputError, match="another version"):
            status(tmp_path / "work")


def test_old_models_go(tmp_path: Path) -> None:
    settings = replace(PAPER, rounds=6, keep_rounds=2, threshold_down=0.3)
    state = go(tmp_path, Wandering(0.9), replace(settings, criterion=(0.7, 0.7), layer_criterion=(0.7, 0.7)))
    assert len(state.round_models) == 2
    assert len(list((tmp_path / "work" / "models").iterdir())) <= 5


def test_a_newer_version_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Options that it has and the journal lacks are at their defaults."""
    settings = replace(PAPER, rounds=1)
    state = go(tmp_path, Scripted(), settings)
    journal = tmp_path / "work" / "journal.jsonl"
    whole = journal.read_text()
    for name in ('"seed": 0, ', '"patience": 10, ', '"inputs": {"data": null, "calibration": null}, '):
        assert name in whole
        whole = whole.replace(name, "", 1)
    journal.write_text(whole.replace(f'"tool": "{__version__}"', '"tool": "0.0.9"', 1))
    assert go(tmp_path, Scripted(), settings) == state
    assert f"the run began with version 0.0.9, this is {__version__}" in caplog.text
    with pytest.raises(UsageError, match="--seed 0, not 1"):
        go(tmp_path, Scripted(), settings, options=replace(PLAIN, seed=1))


# ---------------------------------------------------------------------- inputs


CALIBRATED = replace(PAPER, rounds=1)


def inputs(seed: int) -> dict[str, Any]:
    return {"x": builders.random(40, 4, seed=seed)}


def test_calibration_inputs_calibrate_every_reduction(tmp_path: Path) -> None:
    """They change the weights, and the first layer's width is that of `auto`."""
    model = builders.mlp((4, 12, 12, 12, 3), seed=3)
    settings = replace(CALIBRATED, threshold_start=-1.0)
    found = {}
    for name, options in {
        "none": replace(PLAIN, merge="auto"),
        "given": replace(PLAIN, calibration=inputs(1)),
        "named": replace(PLAIN, calibration=inputs(1), merge="calibrated"),
        "other": replace(PLAIN, calibration=inputs(2)),
        "parts": replace(PLAIN, calibration=iter([inputs(1)])),
    }.items():
        (tmp_path / name).mkdir()
        go(tmp_path / name, Scripted(), settings, model, options)
        found[name] = [(e["model"], e["parameters"]) for e in events(tmp_path / name / "work", "reduced")]
    assert found["given"] == found["named"] == found["parts"]
    for name in ("none", "other"):
        assert found[name][0][1] == found["given"][0][1]
        assert not {digest for digest, _ in found[name]} & {digest for digest, _ in found["given"]}


@pytest.mark.parametrize("name", ["calibration", "data"])
def test_other_inputs_do_not_resume(tmp_path: Path, name: str) -> None:
    def with_file(path: str) -> Options:
        return replace(PLAIN, **{name: str(tmp_path / path), "merge": "auto"})

    np.savez(tmp_path / "a.npz", **inputs(1))
    np.savez(tmp_path / "other.npz", **inputs(2))
    state = go(tmp_path, Scripted(), CALIBRATED, options=with_file("a.npz"))
    (tmp_path / "moved.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    assert go(tmp_path, Scripted(), CALIBRATED, options=with_file("moved.npz")) == state, "the content counts"
    with pytest.raises(UsageError, match=f"began with other --{name} inputs: repeat the same command"):
        go(tmp_path, Scripted(), CALIBRATED, options=with_file("other.npz"))
    with pytest.raises(UsageError, match=f"began with --{name} inputs"):
        go(tmp_path, Scripted(), CALIBRATED, options=replace(PLAIN, merge="auto"))
    with pytest.raises(InputError, match=r"none\.npz"):
        go(tmp_path, Scripted(), CALIBRATED, options=with_file("none.npz"))
    (tmp_path / "b").mkdir()
    go(tmp_path / "b", Scripted(), CALIBRATED, options=replace(PLAIN, merge="auto"))
    with pytest.raises(UsageError, match=f"began without --{name}"):
        go(tmp_path / "b", Scripted(), CALIBRATED, options=with_file("a.npz"))


def test_a_file_that_changes_meanwhile_stops_the_run_which_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, **inputs(1))
    whole = path.read_bytes()
    options = replace(PLAIN, calibration=path)

    def score(_: Scripted) -> float:
        path.write_bytes(b"edited")
        return 0.9

    with pytest.raises(InputError, match="--calibration has changed since the run began: restore it"):
        go(tmp_path, Scripted(score), CALIBRATED, options=options)
    path.write_bytes(whole)
    assert go(tmp_path, Scripted(), CALIBRATED, options=options).reason == "rounds"


def test_inputs_that_do_not_fit_are_said_before_anything_is_trained(tmp_path: Path) -> None:
    trainer = Scripted()
    with pytest.raises(InputError, match="wants"):
        go(tmp_path, trainer, options=replace(PLAIN, calibration={"x": builders.random(40, 5)}))
    with pytest.raises(UsageError, match="nothing_like_it"):
        go(tmp_path, trainer, options=replace(PLAIN, include=("nothing_like_it",)))
    assert not trainer.models
    assert not Folder(tmp_path / "work").events()
