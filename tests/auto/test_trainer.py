"""The trainer's contract: what comes back is checked; crashes, hangs and wrong files are clear errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import builders
from support.cli import gone

from onnx_condense import InputError, TrainerError, UsageError
from onnx_condense.auto.trainer import Checked, check_weights_only, further, score_of
from onnx_condense.finetune import CommandTrainer
from onnx_condense.processes import end_orphan, terminated_like_interrupted

MODEL = builders.mlp((4, 6, 3))
HEAD = """
import argparse, json, os, shutil, sys, time
p = argparse.ArgumentParser()
for name in ("--model", "--output", "--metrics"): p.add_argument(name, required=True)
p.add_argument("--steps", type=int, required=True)
p.add_argument("--learning-rate", type=float, required=True)
p.add_argument("--evaluate-only", action="store_true")
a = p.parse_args()
def metrics(x): open(a.metrics, "w").write(x if isinstance(x, str) else json.dumps(x))
"""
Make = Callable[..., CommandTrainer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A command trainer whose program is given, below HEAD."""

    def made(body: str, timeout: float | None = 60) -> CommandTrainer:
        script = tmp_path / "train me.py"
        script.write_text(HEAD + body)
        (tmp_path / "scratch").mkdir(exist_ok=True)
        return CommandTrainer(f"'{sys.executable}' '{script}'", tmp_path / "scratch", tmp_path / "log", timeout)

    return made


def copied(model: onnx.ModelProto = MODEL) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


# ---------------------------------------------------------------------- the command


def test_the_command_gets_the_contract(make: Make, tmp_path: Path) -> None:
    trainer = make(
        "shutil.copy(a.model, a.output)\n"
        "metrics({'score': 0.5, 'arguments': sys.argv[1:], 'done': os.environ['ONNX_CONDENSE_STEPS_DONE'], "
        "'cwd': os.getcwd()})"
    )
    model, metrics = trainer.train(MODEL, 7, 1 / 3, 12)
    assert model == MODEL
    assert metrics["arguments"][4:8] == ["--metrics", metrics["arguments"][5], "--steps", "7"]
    assert float(metrics["arguments"][9]) == 1 / 3
    assert "--evaluate-only" not in metrics["arguments"]
    assert (metrics["done"], metrics["cwd"]) == ("12", os.getcwd())
    assert trainer.evaluate(MODEL)["arguments"][-1] == "--evaluate-only"
    assert not list((tmp_path / "scratch").iterdir()), "nothing is left"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('x'); print('CUDA out of memory'); sys.exit(3)", r'ended with code 3 \("CUDA out of memory"\).*log'),
        ("os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("metrics({'score': 1})", "wrote no model"),
        ("shutil.copy(a.model, a.output)", "wrote no metrics"),
        ("shutil.copy(a.model, a.output); metrics('score: 1')", "metrics are no JSON"),
        ("shutil.copy(a.model, a.output); metrics('[' * 100_000)", "metrics are no JSON"),
        ("open(a.output, 'w').write('hello'); metrics({'score': 1})", "model cannot be read"),
        ("open(a.output, 'wb').write(open(a.model, 'rb').read()[:99]); metrics({'score': 1})", "cannot be read"),
        ("shutil.copy(a.model, a.output); metrics({'loss': 1})", "gave no score"),
        ("shutil.copy(a.model, a.output); metrics([1])", "gave no score"),
        ("shutil.copy(a.model, a.output); metrics('{\"score\": NaN}')", "score is nan.*--learning-rate"),
        ("shutil.copy(a.model, a.output); metrics({'score': 10**400})", "score is inf.*--learning-rate"),
        ("shutil.copy(a.model, a.output); metrics({'score': '0.9'})", "gave no score.*'0.9'"),
        ("shutil.copy(a.model, a.output); metrics({'score': True})", "gave no score"),
    ],
)
def test_what_goes_wrong_is_one_clear_line(make: Make, body: str, words: str) -> None:
    with pytest.raises(TrainerError, match=words) as caught:
        Checked(make(body), retries=0).train(MODEL, 1, 0.1, 0)
    assert len(str(caught.value).splitlines()) == 1


def test_an_interruption_while_the_program_starts_ends_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = subprocess.Popen

    def interrupted(*given: Any, **options: Any) -> Any:
        process = start(*given, **options)
        started.append(process.pid)
        signal.raise_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with terminated_like_interrupted(), pytest.raises(KeyboardInterrupt):
        make("time.sleep(600)").evaluate(MODEL)
    assert len(started) == 1
    assert gone(started[0])


def test_a_hang_ends_with_its_whole_process_group(make: Make, tmp_path: Path) -> None:
    trainer = make(
        "import subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)",
        timeout=3,
    )
    with pytest.raises(TrainerError, match=r"more than 3 s.*--trainer-timeout"):
        trainer.evaluate(MODEL)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_trainer_that_outlived_its_run_is_ended(tmp_path: Path) -> None:
    import subprocess

    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(program, start_new_session=True) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        started = stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""
        (tmp_path / "record").write_text(f"{process.pid} 1")
        end_orphan(tmp_path / "record")
        assert process.poll() is None, "another process of that number is left alone"
        (tmp_path / "record").write_text(f"{process.pid} {started}")
        end_orphan(tmp_path / "record")
        assert process.wait(10) == -9
    end_orphan(tmp_path / "record")
    end_orphan(tmp_path / "nothing")


@pytest.mark.parametrize("command", ["", "   ", "python 'x", "/no/such/program --fast"])
def test_a_command_that_cannot_run_is_a_usage_error(tmp_path: Path, command: str) -> None:
    with pytest.raises(UsageError, match="--trainer"):
        Checked(CommandTrainer(command, tmp_path, tmp_path / "log"), retries=5).evaluate(MODEL)


def test_a_full_disk_is_not_the_trainers_fault(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    trainer = make("pass")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"No space left on device\): make room"):
        Checked(trainer, retries=0).evaluate(MODEL)


def test_a_disk_that_fills_up_meanwhile_is_not_the_trainers_fault(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="is full: make room and run the command again"):
        Checked(make("sys.exit('No space left on device')"), retries=0).evaluate(MODEL)
    trainer = make("pass")
    trainer.scratch = tmp_path / "none"
    with pytest.raises(InputError, match="cannot write in"):
        Checked(trainer, retries=0).evaluate(MODEL)


def test_what_a_failed_call_printed_outlives_the_next_call(make: Make, tmp_path: Path) -> None:
    once = "if not os.path.exists('failed'):\n    open('failed', 'w')\n    sys.exit('out of memory')\n"
    body = f"os.chdir({str(tmp_path)!r})\n{once}print('fine')\nmetrics({{'score': 1}})"
    assert Checked(make(body), retries=1).evaluate(MODEL) == (1.0, {})
    assert "out of memory" in (tmp_path / "log.failed").read_text()
    assert (tmp_path / "log").read_text() == "fine\n"


# ---------------------------------------------------------------------- checks


def changed(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = copied()
    edit(model)
    return model


def set_value(name: str, value: Any) -> Callable[[onnx.ModelProto], object]:
    return lambda model: builders.set_weight(model, name, np.asarray(value))


POISONED = builders.weight(MODEL, "w1").copy()
POISONED[1, 2] = np.nan


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (changed(set_value("w1", POISONED)), "w1 is not finite"),
        (changed(set_value("b0", np.zeros(5, np.float32))), r"b0 as float \[5\], not float \[6\]"),
        (changed(set_value("b0", np.zeros(6))), r"b0 as double \[6\], not float \[6\]"),
        (changed(lambda m: m.graph.initializer.pop()), "lacks the weight"),
        (
            changed(lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(2), "extra"))),
            "adds.*extra",
        ),
        (changed(lambda m: setattr(m.graph.node[1], "op_type", "Tanh")), "other nodes"),
        (changed(lambda m: setattr(m.graph.node[0], "name", "renamed")), "other nodes"),
        (changed(lambda m: m.graph.node[0].attribute.pop()), "other nodes"),
        (changed(lambda m: setattr(m.graph.output[0], "name", "z")), "other inputs or outputs"),
        (changed(lambda m: setattr(m.opset_import[0], "version", 18)), "another opset"),
        (changed(lambda m: setattr(m.graph.initializer[0], "raw_data", b"123")), "cannot be read"),
        ("model.onnx", "returned no model but str"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_only_weights_may_change(model: Any, words: str) -> None:
    with pytest.raises(TrainerError, match=words):
        check_weights_only(MODEL, model)


def test_weights_comments_and_order_may_change() -> None:
    model = copied()
    for tensor in model.graph.initializer:
        builders.set_weight(model, tensor.name, 2 * numpy_helper.to_array(tensor))
    model.graph.node[0].doc_string = "trained"
    model.producer_name = "me"
    initializers = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
    check_weights_only(MODEL, model)


def test_weights_in_constants_are_weights() -> None:
    text = """g (float[N, 2] x) => (float[N, 2] y) {
        w = Constant<value = float[2] {1.0, 2.0}>()
        y = Mul(x, w)
    }"""
    model = builders.build(text)
    for values, good in (([3.0, 4.0], True), ([3.0, np.nan], False), ([3.0], False)):
        other = copied(model)
        tensor = other.graph.node[0].attribute[0].t
        tensor.CopyFrom(numpy_helper.from_array(np.array(values, np.float32), tensor.name))
        if good:
            check_weights_only(model, other)
        else:
            with pytest.raises(TrainerError):
                check_weights_only(model, other)


def test_masks_of_infinity_may_stay() -> None:
    text = "g (float[N, 2] x) => (float[N, 2] y) { y = Add(x, mask) }"
    model = builders.build(text, {"mask": np.array([0, -np.inf], np.float32)})
    check_weights_only(model, copied(model))
    other = copied(model)
    builders.set_weight(other, "mask", np.array([-np.inf, -np.inf], np.float32))
    with pytest.raises(TrainerError, match="mask"):
        check_weights_only(model, other)


def test_scores_are_numbers() -> None:
    assert score_of({"score": np.float32(0.5)}) == 0.5
    assert score_of({"score": 1}) == 1.0


def test_further_metrics_are_kept_where_they_are_plain() -> None:
    given = {
        "score": 1,
        "loss": np.float32(0.5),
        "nan": np.nan,
        "note": "x",
        "matrix": [[1]],
        "epoch": 3,
        "log": "x" * 9999,
    }
    assert further(given) == {"loss": 0.5, "note": "x", "epoch": 3}
    json.dumps(further(given), allow_nan=False)


def test_a_python_trainer_works_on_a_copy() -> None:
    class Careless:
        def train(self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int) -> Any:
            builders.set_weight(model, "b0", np.full(6, np.nan, np.float32))
            return model, {"score": 1.0}

        def evaluate(self, model: onnx.ModelProto) -> Any:
            return {"score": 1.0}

    before = MODEL.SerializeToString()
    with pytest.raises(TrainerError, match="b0 is not finite"):
        Checked(Careless(), retries=1).train(MODEL, 1, 0.1, 0)
    assert MODEL.SerializeToString() == before
