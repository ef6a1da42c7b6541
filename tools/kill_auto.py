"""Kills `onnx-condense auto` at random points until it is done, and compares the result with an undisturbed run's.

    python tools/kill_auto.py [--kills 100] [--seed 0] [--brief] [--calibrated]

Every other kill falls at a random time (mostly while the trainer runs), the others at a random file operation in the
run's folder (opening, renaming or removing a file, starting the trainer). When a run is done, the next one begins,
until there were enough kills. Exit 0 when every run ended with the same bytes in result.onnx, and nothing but what
the rule of the store says was left in the folder.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy
from digits_trainer import digits

from onnx_condense.auto.folder import Folder
from onnx_condense.auto.machine import replay
from onnx_condense.auto.settings import Settings

TOOLS = Path(__file__).resolve().parent
TRAINER = f"'{sys.executable}' '{TOOLS / 'digits_trainer.py'}'"
OPTIONS = (
    *("--criterion", "0.93:0.9", "--layer-criterion", "0.92:0.9", "--last-criterion", "0.9", "--rounds", "2"),
    *("--learning-rate", "0.003:0.001", "--step-limit", "2", "--step-limit-growth", "1", "--last-step-limit", "3"),
    *("--threshold-start", "0.2", "--threshold-up", "0.7", "--main-step-limit", "20", "--quiet"),
)
BRIEF = (
    "--rounds",
    "1",
    "--test-every",
    "2",
    "--main-test-every",
    "10",
    "--last-criterion",
    "0.87",
    "--last-step-limit",
    "2",
)
KILLER = """
import os, signal, sys
left, work = int(sys.argv.pop(1)), sys.argv.pop(1)
def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "subprocess.Popen") and work in repr(arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from onnx_condense.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def first_network(folder: Path) -> Path:
    """A small network that did not take long."""
    path = folder / "digits.onnx"
    program = [sys.executable, str(TOOLS / "digits_trainer.py"), "--new", str(path), "--widths", "24,20,16"]
    subprocess.run([*program, "--gamma", "0.8", "--steps", "20"], check=True, stdout=subprocess.DEVNULL)
    return path


def images(folder: Path) -> Path:
    """64 digits without their labels."""
    path = folder / "images.npz"
    numpy.savez(path, input=digits()[0][:64])
    return path


def command(model: Path, work: Path, options: Sequence[str]) -> list[str]:
    """The arguments of the run, the same at every start."""
    return ["auto", str(model), "--work", str(work), "--trainer", TRAINER, *OPTIONS, *options]


def killed(program: list[str], after: float | None) -> bool:
    """Whether a process was killed before its end: by us after some seconds, or by itself."""
    with subprocess.Popen(program) as process:
        try:
            code = process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"the run failed with code {code}")
    return code == -signal.SIGKILL


def disturbed(arguments: list[str], work: Path, generator: random.Random, kills: int, seconds: float) -> int:
    """Runs to the end, with at most so many kills; returns how many there were."""
    done = 0
    while True:
        main = [sys.executable, "-m", "onnx_condense", *arguments]
        after = None
        if done < kills and generator.random() < 0.5:
            after = generator.uniform(0, seconds)
        elif done < kills:
            main = [sys.executable, "-c", KILLER, str(generator.randint(1, 150)), str(work), *arguments]
        if not killed(main, after):
            return done
        done += 1


def check(work: Path, result: bytes) -> None:
    """Raises SystemExit unless a run ended with this model, and left no more than it should."""
    if (work / "result.onnx").read_bytes() != result:
        raise SystemExit(f"another result in {work}")
    events = Folder(work).events()
    state = replay(Settings.from_json(events[0]["settings"]), events)
    stored = {path.stem for path in (work / "models").iterdir()}
    if state.phase != "done" or stored != state.models() or list((work / "trainer").iterdir()):
        raise SystemExit(f"{work} is not tidy")


def main() -> None:
    """An undisturbed run, then disturbed ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--brief", action="store_true", help="a shorter run")
    parser.add_argument("--calibrated", action="store_true", help="with --calibration")
    given = parser.parse_args()
    generator = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = first_network(folder)
        options = [
            *(BRIEF if given.brief else ()),
            *(("--calibration", str(images(folder))) if given.calibrated else ()),
        ]
        start = time.perf_counter()
        killed([sys.executable, "-m", "onnx_condense", *command(model, folder / "whole", options)], None)
        seconds = time.perf_counter() - start
        result = (folder / "whole" / "result.onnx").read_bytes()
        check(folder / "whole", result)
        kinds = [e["event"] for e in Folder(folder / "whole").events()]
        kills = runs = 0
        while kills < given.kills:
            work = folder / f"run{runs}"
            kills += disturbed(command(model, work, options), work, generator, given.kills - kills, seconds / 2)
            runs += 1
            check(work, result)
    steps = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print(f"{kills} kills in {runs} runs of {len(kinds)} steps ({steps}); every result is the undisturbed run's")


if __name__ == "__main__":
    main()
