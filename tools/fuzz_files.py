"""Gives damaged models to the command line, each in a process of its own, and says where it does not answer in a line.

    python tools/fuzz_files.py [FOLDER ...] [--count 10000] [--seed 0] [--small] [--keep failing] [--json FILE]

Bytes, tensors, shapes, names, cycles, NaN, nesting, attributes, functions, loops of small models, and of those of
models/ and of the folders, are damaged; mutant number N of a seed is always the same. Each must end with exit code 0,
1 or 2 within 60 s of processor time and 2 GB, without a traceback or an internal error. What does not is kept in a
folder. Exit 0 where all do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from _mutants import mutant
from _seed_models import seeds

from onnx_condense.cli.main import main as program

ROOT = Path(__file__).parents[1]
SECONDS, LONGEST = 60.0, 240.0
"""Of the processor; and of the clock, on a machine that has other things to do."""

MEMORY = 2**31
LARGEST = 2**22
"""Bytes of a seed model at most."""

COMMANDS = (
    ("{model}", "--threshold", "0.7", "--align", "1", "-o", "{out}"),
    ("{model}", "--budget", "params=0.5", "--align", "1", "-o", "{out}"),
    ("{model}", "--lossless", "--align", "1", "-o", "{out}"),
    ("inspect", "{model}"),
    ("verify", "{model}", "{model}"),
)
SIGNS = ("Traceback", "internal error", "\x1b]")


@dataclass(frozen=True)
class Ended:
    """How one mutant ended; `wrong` is "" where it answered as it must."""

    number: int
    seed_model: str
    done: str
    command: tuple[str, ...]
    code: int
    seconds: float
    memory: int
    said: str
    wrong: str


def tried(data: bytes, command: tuple[str, ...], folder: Path) -> tuple[int, float, int, str]:
    """(exit code or minus the signal, seconds of the processor, bytes, what was printed) of a run on a model."""
    model, out, log = folder / "m.onnx", folder / "out.onnx", folder / "log"
    model.write_bytes(data)
    out.unlink(missing_ok=True)
    words = [word.format(model=model, out=out) for word in command]
    child = os.fork()
    if child == 0:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["onnx-condense", *words]
        code = 70
        try:
            code = program()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    start = time.monotonic()
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - start > LONGEST:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    said = log.read_bytes().decode(errors="replace")
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, said


def judged(code: int, seconds: float, memory: int, said: str) -> str:
    """What is wrong with how a run ended, "" for nothing."""
    sign = next((sign for sign in SIGNS if sign in said), None)
    if sign is not None:
        return f"{sign!r} in what it says"
    if code not in (0, 1, 2):
        return f"exit {code}"
    if code and not said.strip().splitlines()[-1:]:
        return f"exit {code} without a word"
    if seconds > SECONDS:
        return f"{seconds:.0f} s"
    return f"{memory / 2**30:.1f} GB" if memory > MEMORY else ""


def models(folders: list[Path]) -> dict[str, bytes]:
    """The models that are damaged, by name."""
    found = {name: model.SerializeToString() for name, model in seeds().items()}
    for folder in folders:
        for path in sorted(folder.rglob("*.onnx")):
            if path.stat().st_size <= LARGEST:
                found[path.stem] = path.read_bytes()
    return found


def run(count: int, seed: int, first: int, folders: list[Path], keep: Path | None) -> list[Ended]:
    """What became of every mutant; those that are wrong are kept in a folder."""
    known, ended = list(models(folders).items()), []
    for name in ("condense", "inspect", "verify"):  # once, here, and not in every process
        importlib.import_module(f"onnx_condense.cli.{name}")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            draw = random.Random(f"{seed} {number}")
            name, data = draw.choice(known)
            damaged, done = mutant(data, draw)
            command = draw.choice(COMMANDS)
            code, seconds, memory, said = tried(damaged, command, Path(folder))
            wrong = judged(code, seconds, memory, said)
            ended.append(Ended(number, name, done, command, code, seconds, memory, said, wrong))
            if wrong and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}_{number}_{name}.onnx").write_bytes(damaged)
                print(f"{number} {name} {done} {command[0]} {command[1]}: {wrong}: {said.strip()[-300:]}", flush=True)
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(description="damaged models through the command line")
    parser.add_argument("folders", nargs="*", type=Path, default=[], help="more models to damage")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--keep", type=Path, default=Path("failing"), help="where what fails is kept")
    parser.add_argument("--small", action="store_true", help="without the models of models/")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folders = given.folders if given.small else [ROOT / "models", *given.folders]
    ended = run(given.count, given.seed, given.first, folders, given.keep)
    wrong = [one for one in ended if one.wrong]
    counts = {
        "mutants": len(ended),
        "exit": {str(code): count for code, count in sorted(Counter(one.code for one in ended).items())},
        "wrong": len(wrong),
        "longest": round(max((one.seconds for one in ended), default=0.0), 1),
        "largest": max((one.memory for one in ended), default=0),
    }
    print(json.dumps(counts))
    if given.json is not None:
        rows = [{"number": one.number, "model": one.seed_model, "done": one.done, "wrong": one.wrong} for one in wrong]
        given.json.write_text(json.dumps(counts | {"failing": rows}, indent=1) + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
