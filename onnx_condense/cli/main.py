"""The command line: arguments to Options, Report to terminal; nothing else."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, get_args

from rich.console import Console

from onnx_condense._version import __version__
from onnx_condense.cli.tables import show_analysis, show_benchmark, show_report, show_verification
from onnx_condense.documents import write_atomically
from onnx_condense.errors import CondenseError, InputError, UsageError, first_line
from onnx_condense.merging.plan import Plan
from onnx_condense.model import files
from onnx_condense.model.runtime import CPU
from onnx_condense.options import DEFAULT_TRIALS, Merge, Options
from onnx_condense.pipeline import analyze, condense
from onnx_condense.planning.alignment import ALIGNMENTS
from onnx_condense.prepare import Progress
from onnx_condense.processes import terminated_like_interrupted
from onnx_condense.proving.compare import verify
from onnx_condense.refitting.samples import dask
from onnx_condense.report.values import Result
from onnx_condense.timing.benchmark import SECONDS, benchmark

PROGRAM = "onnx-condense"
DEBUG = "ONNX_CONDENSE_DEBUG"
"""Set in the environment, it shows tracebacks."""

DEFAULT_VERIFY_TOLERANCE = 1e-5

FILE_WIDTH = 160
"""Columns of tables that go to a file or a pipe."""

PLANNING = (
    "threshold",
    "layer_threshold",
    "lossless",
    "merge",
    "calibration",
    "depthwise",
    "align",
    "align_for",
    "ensure_faster",
    "include",
    "exclude",
    "tolerance",
    "budget",
    "evaluate",
    "max_drop",
    "trials",
    "sequential",
    "fold_batchnorm",
    "input_shape",
)
"""Options that a plan has already answered."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that knows options by their whole names only."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog, description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


class _Files(argparse.Action):
    """An option that may be repeated: a file, or a folder whose .npz files count."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        files = sorted(map(str, Path(values).glob("*.npz"))) if Path(values).is_dir() else [values]
        if not files:
            raise InputError(f"{option} {values} holds no .npz file: name a file, or a folder with some")
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), *files])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 not verified, 2 bad input or usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["inspect"]:
            return _inspect(given[1:])
        if given[:1] == ["verify"]:
            return _verify(given[1:])
        if given[:1] == ["bench"]:
            return _bench(given[1:])
        if given[:1] == ["auto"]:
            return _auto(given[1:])
        return _condense(given)
    except CondenseError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted: nothing was written", 1)
    except Exception as error:  # the contract: one line and an exit code, never a traceback
        if os.environ.get(DEBUG):
            raise
        text = f"{type(error).__name__}: {first_line(error)}"
        return _fail(f"internal error ({text}): nothing was written; please report it with {DEBUG}=1", 1)


def _fail(message: str, code: int) -> int:
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


# ---------------------------------------------------------------------------------------------------- condense


def _condense(given: Sequence[str]) -> int:
    arguments = _condense_parser().parse_args(given)
    options = _options(arguments)
    output = _output(arguments)
    _protect(arguments, output)
    replay = Plan.load(Path(arguments.replay)) if arguments.replay else None
    ended = terminated_like_interrupted() if arguments.evaluate else nullcontext()
    workers = dask(arguments.dask) if arguments.dask else nullcontext()
    with _progress(arguments.quiet) as progress, ended, workers as executor:
        result = condense(
            Path(arguments.model),
            options,
            replay=replay,
            dry_run=arguments.dry_run,
            progress=progress,
            executor=executor,
        )
    written = output.name if arguments.dry_run else _write(output, result)
    if arguments.plan:
        result.plan.save(Path(arguments.plan))
    if arguments.report:
        _write_json(Path(arguments.report), _report_json(result, None if arguments.dry_run else output))
    if not arguments.quiet:
        console = _console()
        show_report(console, result.report)
        console.print(_closing(result, arguments.dry_run, written), soft_wrap=True)
        _warn(result.report.warnings)
    return 0


def _condense_parser() -> _Parser:
    parser = _Parser(
        PROGRAM,
        description="One ONNX file in, a smaller and faster one out. See also: inspect, verify, bench, auto.",
        epilog="Exit codes: 0 done; 1 verification or tolerance not met, nothing written; 2 bad input or usage.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="the .onnx file; it is never changed")
    add("-o", "--output", metavar="OUT", help="where to write (default: STEM.condensed.onnx beside the model)")
    add("--force", action="store_true", help="replace an existing OUT")
    add("--threshold", type=float, metavar="T", help="neurons condense when their cosine is above T (default 0.88)")
    add("--layer-threshold", action="append", default=[], metavar="GLOB=T", help="another threshold for some layers")
    add("--lossless", action="store_true", help="only what is exact to float rounding")
    _merging(parser, "auto")
    add("--dask", metavar="ADDRESS", help="workers of a Dask cluster sum over the files of --calibration")
    add(
        "--align-for", choices=tuple(ALIGNMENTS), help="keep them at the multiple of another host (arm64: not measured)"
    )
    add("--ensure-faster", action="store_true", help="measure; widen or roll back what makes it slower")
    add("--tolerance", type=float, metavar="R", help="largest relative L2 error of the outputs")
    add(
        "--budget", metavar="params=F|macs=F|error=R", help="keep at most this share; or the smallest within this error"
    )
    add("--evaluate", metavar="CMD", help='prints a score, higher is better: "python score.py {model}"')
    add("--max-drop", type=float, metavar="D", help="with --evaluate: how much the score may fall")
    add("--trials", type=int, metavar="N", help=f"models evaluated at most (default {DEFAULT_TRIALS})")
    add("--sequential", action="store_true", help="layer after layer on already merged weights, as in the paper")
    add("--fold-batchnorm", action="store_true", help="fold BatchNormalization into the weights in the file")
    add("--dry-run", action="store_true", help="stop at the plan")
    add("--plan", metavar="PLAN.json", help="write the plan")
    add("--report", metavar="FILE.json", help="write the report")
    add("--replay", metavar="PLAN.json", help="apply a plan instead of judging the model")
    add("--quiet", action="store_true", help="print errors only")
    _selection(parser)
    _inputs(parser)
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def _merging(parser: _Parser, default: str) -> None:
    add = parser.add_argument
    add("--merge", choices=get_args(Merge), help=f"what becomes of condensed neurons (default {default})")
    add(
        "--calibration",
        action=_Files,
        metavar="INPUTS.npz",
        help="inputs to estimate from, without labels (as --data; a fifth verifies), or a folder of such files",
    )
    add("--align", default="auto", metavar="auto|N", help="keep Conv widths at multiples (default auto: this host's)")


def _selection(parser: _Parser) -> None:
    add = parser.add_argument
    add(
        "--depthwise",
        choices=("joint", "kernel"),
        default="joint",
        help="judge every stage, or the depthwise taps alone",
    )
    add("--include", action="append", default=[], metavar="GLOB", help="only these layers (node or weight names)")
    add("--exclude", action="append", default=[], metavar="GLOB", help="not these layers; wins over --include")


def _inputs(parser: _Parser) -> None:
    add = parser.add_argument
    add("--data", metavar="INPUTS.npz", help="one array per graph input, samples on axis 0 (default: generated)")
    add("--input-shape", action="append", default=[], metavar="NAME=1x3x224x224", help="sizes for symbolic dimensions")
    add("--seed", type=int, default=0, metavar="S", help="of generated inputs (default 0)")


def _options(arguments: argparse.Namespace) -> Options:
    if arguments.replay:
        default = _condense_parser().parse_args([arguments.model])
        changed = [name for name in PLANNING if getattr(arguments, name) != getattr(default, name)]
        if changed:
            option = "--" + changed[0].replace("_", "-")
            raise UsageError(f"--replay applies what the plan says: drop {option}, which would plan anew")
    return Options(
        threshold=arguments.threshold,
        layer_threshold=tuple(_pair(text, float, "--layer-threshold", "GLOB=T") for text in arguments.layer_threshold),
        lossless=arguments.lossless,
        merge=arguments.merge,
        depthwise=arguments.depthwise,
        align=_align(arguments.align),
        align_for=arguments.align_for,
        ensure_faster=arguments.ensure_faster,
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        tolerance=arguments.tolerance,
        budget=_pair(arguments.budget, float, "--budget", "params=F, macs=F or error=R") if arguments.budget else None,
        evaluate=arguments.evaluate,
        max_drop=arguments.max_drop,
        trials=arguments.trials,
        data=arguments.data,
        calibration=arguments.calibration,
        input_shape=_shapes(arguments.input_shape),
        sequential=arguments.sequential,
        fold_batchnorm=arguments.fold_batchnorm,
        seed=arguments.seed,
    )


def _pair(text: str, convert: Callable[[str], Any], option: str, form: str) -> tuple[str, Any]:
    name, _, value = text.rpartition("=")
    try:
        if not name:
            raise ValueError
        return name, convert(value)
    except ValueError as error:
        raise UsageError(f"{option} wants {form}, not {text}") from error


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    def shape(text: str) -> tuple[int, ...]:
        return tuple(int(size) for size in text.replace(",", "x").split("x") if size or "x" in text)

    return dict(_pair(text, shape, "--input-shape", "NAME=1x3x224x224") for text in texts)


def _align(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"--align is auto or a positive whole number, not {text}: --align 1 turns it off") from error


def _output(arguments: argparse.Namespace) -> Path:
    source = Path(arguments.model)
    return Path(arguments.output) if arguments.output else source.with_name(f"{source.stem}.condensed.onnx")


def _protect(arguments: argparse.Namespace, output: Path | None) -> None:
    """Raises UsageError before anything that is read, or that exists, would be written over."""
    source = Path(arguments.model)
    if not source.exists():
        raise InputError(f"cannot read {source} (no such file): check the path")
    replay = getattr(arguments, "replay", None)
    read = [source, arguments.data, replay, *(getattr(arguments, "calibration", None) or [])]
    inputs = [Path(p) for p in read if p]
    inputs += [source.with_name(name) for name in files.external_files(source)]
    inputs += [Path(replay).with_suffix(".npz")] if replay else []
    written: list[tuple[str, Path]] = []
    if output is not None and output.absolute().parent != source.absolute().parent:
        written += [("-o", output.parent / name) for name in files.external_files(source)]
    if output is not None:
        written += [("-o", output), ("-o", output.with_name(output.name + ".data"))]
    for option in ("plan", "report"):
        if getattr(arguments, option, None):
            written.append((f"--{option}", Path(getattr(arguments, option))))
    if getattr(arguments, "plan", None):
        written.append(("--plan", Path(arguments.plan).with_suffix(".npz")))
    for position, (option, path) in enumerate(written):
        if any(_same(path, read) for read in inputs):
            raise UsageError(f"{option} {path} is an input: choose another place for it")
        if any(_same(path, other) for _, other in written[:position]):
            raise UsageError(f"{option} {path} is written twice: choose another place for it")
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder: name a file")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"the folder of {option} {path} does not exist: make it first")
        if option == "-o" and path.exists() and not (arguments.force or arguments.dry_run):
            raise UsageError(f"{path} exists: replace it with --force, or choose another place with -o")


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _write(output: Path, result: Result) -> str:
    if not result.changed:
        files.copy(result.source, output)
    else:
        files.save(result.model, output, external=bool(result.source.external))
    return str(output)


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _report_json(result: Result, output: Path | None) -> dict[str, Any]:
    content = result.report.to_json()
    if output is not None:
        written = files.load(output)
        found = {"path": str(output), "sha256": written.sha256, "bytes": written.size}
        content["output"] = (content["output"] or content["input"]) | found
    return content


def _closing(result: Result, dry_run: bool, written: str) -> str:
    if dry_run:
        return "Dry run: no model was written."
    if not result.changed and result.report.latency is not None and result.report.latency.rolled_back:
        return f"Every reduction made it slower: {written} is the input, byte for byte."
    if not result.changed and result.report.search is not None:
        return f"Nothing could be condensed within the bound: {written} is the input, byte for byte."
    if not result.changed:
        return f"Nothing to condense: {written} is the input, byte for byte."
    return f"Wrote {written}"


# ---------------------------------------------------------------------------------------- inspect, verify, bench


def _inspect(given: Sequence[str]) -> int:
    parser = _Parser(f"{PROGRAM} inspect", description="What could be condensed, to which width, what not, and why.")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--report", metavar="FILE.json", help="write the report")
    _selection(parser)
    _inputs(parser)
    arguments = parser.parse_args(given)
    _protect(arguments, None)
    options = Options(
        depthwise=arguments.depthwise,
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        data=arguments.data,
        input_shape=_shapes(arguments.input_shape),
        seed=arguments.seed,
    )
    with _progress(False) as progress:
        analysis = analyze(Path(arguments.model), options, progress)
    if arguments.report:
        _write_json(Path(arguments.report), analysis.to_json())
    show_analysis(_console(), analysis)
    return 0


def _verify(given: Sequence[str]) -> int:
    parser = _Parser(f"{PROGRAM} verify", description="Compares two models in onnxruntime; exit 1 above the tolerance.")
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--tolerance", type=float, default=DEFAULT_VERIFY_TOLERANCE, metavar="R", help="default 1e-5")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    _inputs(parser)
    arguments = parser.parse_args(given)
    if not arguments.tolerance >= 0:
        raise UsageError(f"--tolerance must be a number of at least 0, not {arguments.tolerance:g}")
    shapes = _shapes(arguments.input_shape)
    found = verify(Path(arguments.a), Path(arguments.b), arguments.data, input_shape=shapes, seed=arguments.seed)
    if not arguments.quiet:
        show_verification(_console(), found)
    worst = max((o.relative_l2 for o in found.outputs), key=lambda e: (e != e, e), default=0.0)
    if not worst <= arguments.tolerance:
        return _fail(f"the models differ by {worst:.3g}, more than --tolerance {arguments.tolerance:g}", 1)
    return 0


def _bench(given: Sequence[str]) -> int:
    arguments = _bench_parser().parse_args(given)
    with _progress(False, moving=False) as progress:
        found = benchmark(
            *(Path(model) for model in arguments.models),
            threads=arguments.threads,
            batches=_batches(arguments.batch),
            input_shape=_shapes(arguments.input_shape),
            provider=_provider(arguments.provider),
            data=arguments.data,
            seconds=arguments.seconds,
            seed=arguments.seed,
            with_profile=arguments.profile,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        show_benchmark(_console(), found)
    _warn(found.warnings)
    return 0


def _bench_parser() -> _Parser:
    parser = _Parser(
        f"{PROGRAM} bench",
        description="Latency of models in onnxruntime, in interleaved rounds; all are compared with the first.",
        epilog="A model file named bench is reached as ./bench.",
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="the first is what the others are compared with")
    add("--threads", type=int, default=0, metavar="N", help="of onnxruntime (default 0: all cores)")
    add("--batch", metavar="1,8,64", help="sizes of a symbolic batch axis (default 1)")
    add("--provider", default=CPU, metavar="NAME", help="onnxruntime's execution provider (default CPU)")
    add("--seconds", type=float, default=SECONDS, metavar="S", help="at most, per batch size (default 10)")
    add("--profile", action="store_true", help="also show the time per operator type and node")
    add("--json", action="store_true", help="print JSON instead of tables")
    _inputs(parser)
    return parser


def _batches(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise UsageError(f"--batch wants sizes like 1,8,64, not {text}") from error


def _provider(name: str) -> str:
    """onnxruntime's name of a provider: CUDA means CUDAExecutionProvider."""
    return name if name.endswith("ExecutionProvider") else f"{name}ExecutionProvider"


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------- auto


def _auto(given: Sequence[str]) -> int:
    from onnx_condense.cli import auto as command

    parser = _Parser(
        f"{PROGRAM} auto",
        description="Merges and trains in turn until the network is a fraction of its size; the same command resumes.",
        epilog="Exit codes: 0 reached; 1 ended before, or the trainer failed; 2 bad input or usage.",
    )
    command.add_arguments(parser)
    _merging(parser, f"{command.DEFAULT_MERGE}; calibrated with --calibration")
    _selection(parser)
    _inputs(parser)
    arguments = parser.parse_args(given)
    options = Options(
        merge=arguments.merge,
        depthwise=arguments.depthwise,
        align=_align(arguments.align),
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        data=arguments.data,
        calibration=arguments.calibration,
        input_shape=_shapes(arguments.input_shape),
        seed=arguments.seed,
    )
    return command.execute(arguments, options, _console())


def _console() -> Console:
    """Standard output; wide enough for whole names where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


@contextmanager
def _progress(quiet: bool, moving: bool = True) -> Iterator[Progress | None]:
    """The stage's name, on a terminal only: with a spinner, or without where its thread would disturb a measurement."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    if not moving:
        yield lambda stage: console.print(stage, style="dim")
        return
    with console.status("starting") as status:
        yield lambda stage: status.update(stage)
