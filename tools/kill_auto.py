"""Kills `onnx-condense auto` at random points until it is done, and compares the result with an undisturbed run's.

    python tools/kill_auto.py [--kills 100] [--seed 0] [--brief] [--calibrated]

Every other kill falls at a random time (mostly while the trainer runs), the others at a random file operation in the
run's folder (opening, renaming or removing a file, starting the trainer). When a run is done, the next one begins,
until there were enough kills. With --brief a run is shorter, and its trainer does no work twice. Exit 0 when every run
ended with the same bytes in result.onnx, and nothing but what the rule of the store says was left in the folder.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy
from digits_trainer import digits

from onnx_condense.auto.folder import Folder
from onnx_condense.auto.machine import replay
from onnx_condense.auto.settings import Settings
from onnx_condense.cli.main import main as program

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
REMEMBERING = """
import hashlib, os, shutil, subprocess, sys, time
known, trainer, *words = sys.argv[1:]
places = {word: words[words.index(word) + 1] for word in ("--model", "--output", "--metrics")}
asked = [word for word in words if word not in places.values()] + [os.environ["ONNX_CONDENSE_STEPS_DONE"]]
with open(places["--model"], "rb") as file:
    key = os.path.join(known, hashlib.sha256(file.read() + repr(asked).encode()).hexdigest())
made = [(places[word], key + word) for word in ("--output", "--metrics")]
if os.path.exists(made[1][1]):
    time.sleep(0.1)
    for place, kept in made:
        if os.path.exists(kept):
            shutil.copy(kept, place)
else:
    subprocess.run([sys.executable, trainer, *words], check=True)
    for place, kept in made:
        if os.path.exists(place):
            shutil.copy(place, kept + ".part")
            os.rename(kept + ".part", kept)
"""
"""A trainer that gives the answers that another one gave it, without its work."""

FORKS = get_context("forkserver")
"""Where runs begin with the package imported, forked from a process that has not run."""

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "subprocess.Popen")


def start(arguments: list[str], work: Path, events: int) -> None:
    """The program, in a process of its own; killed before the n-th event in the folder where events is n, not 0."""
    left = events

    def hook(event: str, details: tuple[object, ...]) -> None:
        nonlocal left
        if event in EVENTS and str(work) in repr(details):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.argv[1:] = arguments
    if events:
        sys.addaudithook(hook)
        sys.exit(program(arguments))
    sys.exit(program())


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


def remembering(folder: Path) -> str:
    """The trainer as a command that does no work twice."""
    (folder / "known").mkdir()
    script = folder / "remembering.py"
    script.write_text(REMEMBERING)
    return f"'{sys.executable}' '{script}' '{folder / 'known'}' '{TOOLS / 'digits_trainer.py'}'"


def command(model: Path, work: Path, options: Sequence[str]) -> list[str]:
    """The arguments of the run, the same at every start."""
    return ["auto", str(model), "--work", str(work), *OPTIONS, *options]


def killed(arguments: list[str], work: Path, events: int = 0, after: float | None = None) -> bool:
    """Whether a run was killed before its end: by us after some seconds, or by itself at an event."""
    process = FORKS.Process(target=start, args=(arguments, work, events))
    process.start()
    process.join(after)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the run failed with code {process.exitcode}")
    return process.exitcode != 0


def disturbed(arguments: list[str], work: Path, generator: random.Random, kills: int, seconds: float) -> int:
    """Runs to the end, with at most so many kills; returns how many there were."""
    done = 0
    while True:
        events, after = 0, None
        if done < kills and generator.random() < 0.5:
            after = generator.uniform(0, seconds)
        elif done < kills:
            events = generator.randint(1, 150)
        if not killed(arguments, work, events, after):
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


def main(arguments: Sequence[str] | None = None) -> None:
    """An undisturbed run, then disturbed ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--brief", action="store_true", help="a shorter run")
    parser.add_argument("--calibrated", action="store_true", help="with --calibration")
    given = parser.parse_args(arguments)
    generator = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = first_network(folder)
        options = [
            *("--trainer", remembering(folder) if given.brief else TRAINER),
            *(BRIEF if given.brief else ()),
            *(("--calibration", str(images(folder))) if given.calibrated else ()),
        ]
        began = time.perf_counter()
        killed(command(model, folder / "whole", options), folder / "whole")
        seconds = (time.perf_counter() - began) / (4 if given.brief else 2)
        result = (folder / "whole" / "result.onnx").read_bytes()
        check(folder / "whole", result)
        kinds = [e["event"] for e in Folder(folder / "whole").events()]
        kills = runs = 0
        while kills < given.kills:
            work = folder / f"run{runs}"
            kills += disturbed(command(model, work, options), work, generator, given.kills - kills, seconds)
            runs += 1
            check(work, result)
    steps = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print(f"{kills} kills in {runs} runs of {len(kinds)} steps ({steps}); every result is the undisturbed run's")


if __name__ == "__main__":
    main()
