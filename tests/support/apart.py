"""The command line in processes of their own that begin with everything imported, which is most of what one costs.

They are forked from a process that opened no session: what is printed, exit codes, signals and kills are those of a
program that was started (`support.cli.shell` starts one).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from onnx_condense.cli.main import main
from support.cli import Argument, Outcome, snapshot

FORKS = get_context("forkserver")
"""Where processes begin with the package imported."""

FORKS.set_forkserver_preload(
    ["onnx_condense.cli." + name for name in ("condense", "inspect", "verify", "bench", "auto")]
)


@dataclass(frozen=True)
class Stop:
    """A signal that a process sends itself before the n-th event of a kind whose arguments name a file.

    Attributes:
        count: n.
        number: of the signal.
        event: an audit event, as "open" or "os.rename".
        name: what the file's name holds.
    """

    count: int
    number: int
    event: str
    name: str = "onnx-condense.part"

    def listen(self) -> None:
        """From now on."""
        left = self.count

        def hook(happens: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if happens == self.event and self.name in repr(arguments):
                left -= 1
                if left == 0:
                    signal.raise_signal(self.number)

        sys.addaudithook(hook)


@dataclass(frozen=True)
class _Surroundings:
    """Where a process works: its folder, its environment, and what its standard streams are."""

    folder: Path
    environment: Mapping[str, str]
    streams: tuple[str, str, str]
    stop: Stop | None

    def enter(self) -> None:
        """Only in a process that was forked for it."""
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        for number, path in enumerate(self.streams):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if self.stop is not None:
            self.stop.listen()


def _run(surroundings: _Surroundings, script: Path | None, arguments: list[str]) -> None:
    surroundings.enter()
    if script is None:
        sys.exit(main(arguments))
    sys.argv, sys.path[:0] = [str(script), *arguments], [str(script.parent)]
    runpy.run_path(str(script), run_name="__main__")


def apart(
    *arguments: Argument,
    cwd: Path,
    given: bytes = b"",
    stop: Stop | None = None,
    script: Path | None = None,
    **environment: str,
) -> Outcome:
    """One run of the command line, in a folder; bytes that are no text stay in what it printed (`surrogateescape`).

    Args:
        arguments: as words.
        cwd: the folder.
        given: what standard input holds.
        stop: when it gets a signal.
        script: a program in Python that runs in its place.
        environment: beside what there is.
    """
    before = snapshot(cwd)
    with tempfile.TemporaryDirectory() as name:
        source, out, errors = (Path(name, stream) for stream in ("in", "out", "errors"))
        source.write_bytes(given)
        surroundings = _Surroundings(cwd, os.environ | environment, (str(source), str(out), str(errors)), stop)
        process = FORKS.Process(target=_run, args=(surroundings, script, [str(a) for a in arguments]))
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"{arguments} did not end")
        printed, said = (path.read_bytes().decode(errors="surrogateescape") for path in (out, errors))
    after = snapshot(cwd)
    written = frozenset(path for path, digest in after.items() if before.get(path) != digest)
    code = process.exitcode
    assert code is not None
    return Outcome(code, printed, said, written)
