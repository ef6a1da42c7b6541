"""What each command takes, and what help says of it."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace

from onnx_condense.auto.settings import DEFAULT_MERGE, Settings
from onnx_condense.cli.arguments import Command, Fields
from onnx_condense.data.sources import Pixels
from onnx_condense.flags import Heading, must, option
from onnx_condense.options import Options
from onnx_condense.timing.setup import Setup
from onnx_condense.trust import Trust

DEFAULT_TOLERANCE = 1e-5
"""Of `verify`."""

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""Of messages, as logging counts them."""

QUIET = "print errors only"
FORCE = "replace files that exist"
REPORT = "write the report, as JSON or as a page; may be given twice"

MODEL, WELL, OUTPUT, TRAINER = Heading.MODEL, Heading.WELL, Heading.OUTPUT, Heading.TRAINER


@dataclass(frozen=True)
class Condense:
    """What the program takes beside Options."""

    models: tuple[str, ...] = option(
        MISSING,
        "the .onnx file, - for standard input; it is never changed; several are condensed one after the other",
        MODEL,
        "MODEL",
        positional=True,
        gather=tuple,
    )
    dask: str | None = option(None, "workers of a Dask cluster sum over the files of --calibration", WELL, "ADDRESS")
    output: str | None = option(
        None,
        "where to write, - for standard output; of several models, a folder",
        OUTPUT,
        "OUT",
        short="-o",
        unset="STEM.condensed.onnx beside the model",
    )
    force: bool = option(False, FORCE, OUTPUT)
    plan: str | None = option(None, "write the plan", OUTPUT, "PLAN.json")
    replay: str | None = option(None, "apply a plan instead of judging the model", Heading.REMOVE, "PLAN.json")
    report: tuple[str, ...] = option((), REPORT, OUTPUT, "FILE.json|FILE.html", gather=tuple)
    costs_out: str | None = option(
        None, "with --budget latency: write the cost table; --latency-for it gives the same model again", OUTPUT, "FILE"
    )
    dry_run: bool = option(False, "stop at the plan", OUTPUT)
    json: bool = option(False, "print the report as JSON instead of tables", OUTPUT)
    quiet: bool = option(False, QUIET, OUTPUT, short="-q")


@dataclass(frozen=True)
class Inspect:
    """What `inspect` takes beside some of Options."""

    model: str = option(MISSING, "the .onnx file", MODEL, "MODEL", positional=True)
    report: tuple[str, ...] = option((), REPORT, OUTPUT, "FILE.json|FILE.html", gather=tuple)
    force: bool = option(False, FORCE, OUTPUT)
    json: bool = option(False, "print JSON instead of tables", OUTPUT)
    quiet: bool = option(False, QUIET, OUTPUT, short="-q")


@dataclass(frozen=True)
class Verify:
    """What `verify` takes beside some of Options."""

    a: str = option(MISSING, "errors are relative to its outputs", MODEL, "A", positional=True)
    b: str = option(MISSING, "the model that is compared with it", MODEL, "B", positional=True)
    tolerance: float = option(
        DEFAULT_TOLERANCE,
        "largest relative L2 error of an output",
        WELL,
        "R",
        float,
        must(lambda value: value >= 0, "{option} must be a number of at least 0, not {value:g}"),
    )
    json: bool = option(False, "print JSON instead of a table", OUTPUT)
    report: tuple[str, ...] = option((), REPORT, OUTPUT, "FILE.json|FILE.html", gather=tuple)
    force: bool = option(False, FORCE, OUTPUT)
    quiet: bool = option(False, QUIET, OUTPUT, short="-q")


@dataclass(frozen=True)
class Diff:
    """What `diff` takes."""

    a: str = option(MISSING, "the model before", MODEL, "A", positional=True)
    b: str = option(MISSING, "the model after", MODEL, "B", positional=True)
    json: bool = option(False, "print JSON instead of tables", OUTPUT)
    report: tuple[str, ...] = option((), REPORT, OUTPUT, "FILE.json|FILE.html", gather=tuple)
    force: bool = option(False, FORCE, OUTPUT)
    quiet: bool = option(False, QUIET, OUTPUT, short="-q")


@dataclass(frozen=True)
class Bench:
    """What `bench` takes beside Setup and some of Options."""

    models: tuple[str, ...] = option(
        MISSING, "the first is what the others are compared with", MODEL, "MODEL", positional=True, gather=tuple
    )
    costs: str | None = option(
        None,
        "time the layers of one model at several widths, for --latency-for, in the place of a race",
        OUTPUT,
        "FILE",
    )
    json: bool = option(False, "print JSON instead of tables", OUTPUT)
    report: tuple[str, ...] = option((), REPORT, OUTPUT, "FILE.json|FILE.html", gather=tuple)
    force: bool = option(False, FORCE, OUTPUT)
    quiet: bool = option(False, QUIET, OUTPUT, short="-q")


@dataclass(frozen=True)
class Auto:
    """What `auto` takes beside Settings and some of Options."""

    work: str = option(MISSING, "the run's folder: its journal, its models, result.onnx", OUTPUT, "DIR")
    model: str | None = option(None, "the trained .onnx file; it is never changed", MODEL, "MODEL", positional=True)
    trainer: str | None = option(
        None, "called as CMD --model IN --output OUT --steps N --learning-rate LR ...", TRAINER, "CMD"
    )
    trainer_timeout: float = option(3600.0, "seconds per call, 0 for no limit", TRAINER, "S", float)
    trainer_retries: int = option(1, "calls again after a failure", TRAINER, "N", int)
    status: bool = option(False, "show what a run has done; on a terminal, follow it", OUTPUT)
    json: bool = option(False, "with --status: as JSON", OUTPUT)
    plot: str | None = option(
        None, "with --status: draw score, parameters and thresholds (needs matplotlib)", OUTPUT, "FILE.svg"
    )
    report: tuple[str, ...] = option((), f"with --status: {REPORT}", OUTPUT, "FILE.json|FILE.html", gather=tuple)
    force: bool = option(False, "with --plot and --report: replace files that exist", OUTPUT)
    quiet: bool = option(False, QUIET, OUTPUT, short="-q")


@dataclass(frozen=True)
class Shared:
    """What every command takes."""

    recipe: str | None = option(
        None,
        "options from a TOML or YAML file, as beside a report; those of the command line win",
        OUTPUT,
        "FILE",
    )
    verbose: bool = option(False, "log the stages, as --log-level debug", OUTPUT, short="-v")
    log_level: str = option("warning", "what is logged to standard error", OUTPUT, choices=tuple(LEVELS))

    @property
    def level(self) -> int:
        """As logging counts."""
        return LEVELS["debug" if self.verbose else self.log_level]


INPUTS = ("data", "input_shape", "seed")
CHOSEN = ("depthwise", "include", "exclude")
MERGING = ("merge", "calibration", "align")

CONDENSE = Command(
    "",
    "One ONNX file in, a smaller and faster one out.",
    "Exit codes: 0 done; 1 verification or tolerance not met, nothing written; 2 bad input or usage.",
    (Fields(Options), Fields(Pixels), Fields(Condense), Fields(Shared), Fields(Trust)),
)
INSPECT = Command(
    "inspect",
    "What could be condensed, to which width, what not, and why.",
    "",
    (
        Fields(Options, (*CHOSEN, *INPUTS, "input_range")),
        Fields(Pixels),
        Fields(Inspect),
        Fields(Shared),
        Fields(Trust),
    ),
)
VERIFY = Command(
    "verify",
    "Compares two models in onnxruntime; exit 1 above the tolerance.",
    "",
    (Fields(Options, INPUTS), Fields(Pixels), Fields(Verify), Fields(Shared), Fields(Trust)),
)
DIFF = Command(
    "diff",
    "What differs between two models, layer by layer: weights, parameters, nodes of one only.",
    "A model file named diff is reached as ./diff.",
    (Fields(Diff), Fields(Shared), Fields(Trust)),
)
BENCH = Command(
    "bench",
    "Latency of models in onnxruntime, in interleaved rounds; all are compared with the first.",
    "A model file named bench is reached as ./bench.",
    (Fields(Setup), Fields(Options, INPUTS), Fields(Pixels), Fields(Bench), Fields(Shared), Fields(Trust)),
)
AUTO = Command(
    "auto",
    "Merges and trains in turn until the network is a fraction of its size; the same command resumes.",
    "Exit codes: 0 reached; 1 ended before, or the trainer failed; 2 bad input or usage.",
    (
        Fields(Auto),
        Fields(Settings),
        Fields(Options, (*MERGING, *CHOSEN, *INPUTS), {"merge": f"{DEFAULT_MERGE}; calibrated with --calibration"}),
        Fields(Pixels),
        Fields(Shared),
        Fields(Trust),
    ),
)

CONDENSE = replace(CONDENSE, others=(INSPECT, VERIFY, DIFF, BENCH, AUTO))

COMMANDS = {command.name: command for command in (CONDENSE, *CONDENSE.others)}
