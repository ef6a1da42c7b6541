"""Models from anywhere: whatever they hold, the program answers with a line, in bounded time and memory."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import builders
from support.cli import PREFIX, Cli, Save, shell

from onnx_condense import trust
from onnx_condense.errors import LimitError
from onnx_condense.model import runtime
from onnx_condense.trust import Trust, within

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there a run is watched")


def mlp() -> onnx.ModelProto:
    return builders.mlp((8, 16, 3), clusters=4)


# ---------------------------------------------------------------------------------------------------- what is no file


@LINUX
@pytest.mark.parametrize(
    "words",
    [
        "{odd}",
        "inspect {odd}",
        "verify {odd} m.onnx",
        "verify m.onnx {odd}",
        "bench {odd}",
        "m.onnx --data {odd}",
        "m.onnx --calibration {odd}",
        "m.onnx --replay {odd}",
        "verify m.onnx m.onnx --data {odd}",
    ],
)
def test_pipes_sockets_and_devices_are_a_line(cli: Cli, save: Save, words: str) -> None:
    save(mlp())
    pipe, plug = cli.folder / "pipe", cli.folder / "s"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as plugged:
        plugged.bind(str(plug))
        for odd, kind in ((pipe, "a pipe"), (plug, "a socket"), (Path("/dev/zero"), "a device")):
            assert cli.fails(2, *words.format(odd=odd).split()).startswith(f"{odd} is {kind}, not a file: ")


@LINUX
def test_external_data_that_is_no_file_is_a_line(cli: Cli) -> None:
    model = mlp()
    onnx.save(model, cli.folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (cli.folder / "m.data").unlink()
    os.mkfifo(cli.folder / "m.data")
    assert "needs its external data file m.data" in cli.fails(2, "m.onnx")


# ---------------------------------------------------------------------------------------------------- damaged models


def _string_attribute(model: onnx.ModelProto) -> None:
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.append(helper.make_attribute("transB", "one"))


def _rank_0(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]


def _absurd_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def _absurd_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40


def _wrong_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 7


def _cut_short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"1234"


def _old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 6


def _own_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-1].domain = "my.domain"
    model.opset_import.add(domain="my.domain", version=1)


DAMAGE: dict[Callable[[onnx.ModelProto], None], str] = {
    _string_attribute: "Mismatched attribute type in 'fc0 : transB'",
    _rank_0: "is damaged or unsupported: onnxruntime cannot load the model: ",
    _absurd_weight: "onnxruntime cannot load the model",
    _absurd_input: "x is 1099511627776x8, which is too large to be generated",
    _wrong_type: "onnxruntime cannot load the model",
    _cut_short: "onnxruntime cannot load the model",
    _old_opset: "(its opset is 6: convert it to 7 or later with onnx.version_converter)",
    _own_operator: "(give the library that holds it with --custom-ops)",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__.lstrip("_"))
def test_what_is_damaged_is_a_line(cli: Cli, damage: Callable[[onnx.ModelProto], None]) -> None:
    model = mlp()
    damage(model)
    onnx.save(model, cli.folder / "m.onnx")
    for command in (["m.onnx"], ["inspect", "m.onnx"], ["verify", "m.onnx", "m.onnx"]):
        assert DAMAGE[damage] in cli.fails(2, *command)


def test_an_error_of_ours_is_not_blamed_on_the_model(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("ours")

    save(mlp())
    monkeypatch.setattr("onnx_condense.prepare.model_specs", broken)
    outcome = cli.run("m.onnx")
    assert outcome.code == 1
    assert "internal error (IndexError: ours): nothing was written; please report it" in outcome.err
    monkeypatch.setenv("ONNX_CONDENSE_DEBUG", "1")
    with pytest.raises(IndexError, match="ours"):
        cli.run("m.onnx")


def test_debugging_shows_where_a_refusal_comes_from(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNX_CONDENSE_DEBUG", "1")
    printed = cli.run("none.onnx").err
    assert "Traceback" in printed
    assert printed.splitlines()[-1].startswith(PREFIX)


# ---------------------------------------------------------------------------------------------------- limits


def endless() -> onnx.ModelProto:
    model = mlp()
    ports = [helper.make_tensor_value_info(*port) for port in (("i", 7, []), ("k", 9, []), ("u", 1, [1]))]
    step = [helper.make_node("Identity", ["k"], ["k1"]), helper.make_node("Tanh", ["u"], ["u1"])]
    ends = [helper.make_tensor_value_info("k1", 9, []), helper.make_tensor_value_info("u1", 1, [1])]
    body = helper.make_graph(step, "body", ports, ends)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, dtype=np.float32), "start"))
    model.graph.node.append(helper.make_node("Loop", ["", "yes", "start"], ["end"], body=body))
    model.graph.output.append(helper.make_tensor_value_info("end", TensorProto.FLOAT, [1]))
    return model


def test_a_loop_without_an_end_is_a_line(cli: Cli, save: Save) -> None:
    save(endless())
    start = time.perf_counter()
    said = cli.fails(2, "m.onnx", "--limit-seconds", "0.3")
    assert said == "the model has loops and runs for more than 0.3 s: allow more with --limit-seconds"
    assert time.perf_counter() - start < 30
    assert threading.active_count() < 5


def test_only_loops_are_timed() -> None:
    feed = {"x": np.ones((1, 8), dtype=np.float32)}
    with within(Trust(limit_seconds=0.1)):
        assert runtime.run(runtime.session(mlp()), None, feed)
        with pytest.raises(LimitError, match=r"runs for more than 0\.1 s"):
            runtime.run(runtime.session(endless()), None, feed)


def large(elements: int) -> onnx.ModelProto:
    model = mlp()
    model.graph.initializer.append(numpy_helper.from_array(np.array([elements], dtype=np.int64), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["made"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["made"], ["most"]))
    model.graph.output.append(helper.make_tensor_value_info("most", TensorProto.FLOAT, None))
    return model


@LINUX
@pytest.mark.parametrize("elements", [10**9, 10**12])
def test_large_constants_are_a_line(save: Save, tmp_path: Path, elements: int) -> None:
    save(large(elements))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = shell("m.onnx", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert outcome.code == 2
    assert outcome.error
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert after.ru_maxrss < 2 * 2**20
    if elements == 10**9:
        assert outcome.error == "it takes more than 1.5 GB of memory: allow more with --limit-memory"


@LINUX
def test_a_limit_of_memory_can_be_given(save: Save, tmp_path: Path) -> None:
    save(large(10**9))
    assert "more than 0.4 GB of memory" in shell("m.onnx", "--limit-memory", "0.4", cwd=tmp_path).error


def test_what_is_read_and_what_is_given_say_how_much_may_be_taken() -> None:
    board = mmap(-1, trust.BOARD)
    trust.watched_on(board)

    def allowed() -> int:
        return trust.allowed(board)

    before = allowed()
    trust.takes_in(1000)
    after = allowed()
    assert before >= trust.FREE
    assert after == before + 1000 * trust.TIMES
    for given in (0, 2):
        with within(Trust(limit_memory=given)):
            assert allowed() == given * 2**30
    assert allowed() == after
    trust.has_run()
    assert allowed() == 0
    with within(Trust(limit_memory=2)):
        assert allowed() == 2 * 2**30


# ---------------------------------------------------------------------------------------------------- crashes

CRASHING = """
import os, signal, sys
from onnx_condense.cli import main as cli

def execute(name, arguments):
    {what}

cli._execute = execute
sys.exit(cli.main())
"""


@LINUX
@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            2,
            "the model crashes onnxruntime or onnx (SIGSEGV), so it is damaged or unsupported: export it again, "
            "or pass inputs with --data",
        ),
        ("os.abort()", 2, "the model crashes onnxruntime or onnx (SIGABRT)"),
        (
            "raise MemoryError('9 GB')",
            2,
            "not enough memory (9 GB): run it where there is more, on a smaller model, or on smaller inputs with",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "the run was killed (SIGKILL), perhaps for want of memory"),
        ("os.kill(os.getppid(), signal.SIGTERM); import time; time.sleep(60)", 1, "interrupted: nothing was written"),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); os.kill(os.getppid(), 15); import time; time.sleep(60)",
            1,
            "interrupted (SIGTERM)",
        ),
    ],
)
def test_a_crash_is_a_line(tmp_path: Path, what: str, code: int, says: str) -> None:
    outcome = shell("m.onnx", cwd=tmp_path, program=(sys.executable, "-c", CRASHING.format(what=what)))
    assert outcome.code == code
    assert outcome.error.startswith(says)


@LINUX
def test_what_is_undone_after_a_signal_takes_its_time(tmp_path: Path) -> None:
    what = """
    import time
    try:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        time.sleep(1.5)
        print("undone", flush=True)
"""
    outcome = shell("m.onnx", cwd=tmp_path, program=(sys.executable, "-c", CRASHING.format(what=what.strip())))
    assert (outcome.code, outcome.error) == (1, "interrupted: nothing was written")
    assert outcome.out == "undone\n"


@LINUX
def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    what = "print(os.getpid(), flush=True); import time; time.sleep(60)"
    command = [sys.executable, "-c", CRASHING.format(what=what), "m.onnx"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        process.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{child}").exists()


# ---------------------------------------------------------------------------------------------------- operators


def test_a_library_with_operators_goes_into_every_session(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Options(ort.SessionOptions):
        def register_custom_ops_library(self, path: str) -> None:
            seen.append(path)

    monkeypatch.setattr(ort, "SessionOptions", Options)
    runtime.session(mlp())
    assert not seen
    with within(Trust(custom_ops="ops.so")):
        runtime.session(mlp())
    assert seen == ["ops.so"]


def test_a_library_that_is_none_is_a_line(cli: Cli, save: Save) -> None:
    save(mlp())
    (cli.folder / "ops.so").write_bytes(b"no library")
    for name in ("ops.so", "none.so"):
        assert cli.fails(2, "m.onnx", "--custom-ops", name).startswith(f"--custom-ops {name} cannot be loaded: ")


def test_limits_have_ranges(cli: Cli, save: Save) -> None:
    save(mlp())
    for option in ("--limit-seconds", "--limit-memory", "--limit-nodes"):
        assert "must be a number of at least 0 (no limit), not -1" in cli.fails(2, "m.onnx", option, "-1")
