"""`onnx-condense`: condenses a model, and writes what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import Condense
from onnx_condense.cli.places import default_output, document_places, files_read, model_places, protect
from onnx_condense.cli.tables import show_report
from onnx_condense.errors import UsageError
from onnx_condense.flags import InPlan, defaults_of, flags_of, written
from onnx_condense.merging.plan import Plan
from onnx_condense.model import files
from onnx_condense.options import Options
from onnx_condense.pipeline import condense
from onnx_condense.refitting.samples import dask
from onnx_condense.report.formats import write_document
from onnx_condense.report.values import Report, Result


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own = arguments.of(Condense)
    if own.replay:
        _check_replay(arguments)
    options = arguments.of(Options)
    source = Path(own.model)
    output = Path(own.output) if own.output else default_output(source)
    _protect(own, options, output)
    replay = Plan.load(Path(own.replay)) if own.replay else None
    workers = dask(own.dask) if own.dask else nullcontext()
    with terminal.progress(own.quiet) as progress, workers as executor:
        result = condense(source, options, replay=replay, dry_run=own.dry_run, progress=progress, executor=executor)
    with _said_if_written(output):
        closing = "Dry run: no model was written." if own.dry_run else _write(output, result)
        if own.plan:
            result.plan.save(Path(own.plan))
        if own.report:
            report = result.report if own.dry_run else _written(result.report, output)
            write_document(Path(own.report), report.to_json())
    if not own.quiet:
        console = terminal.output()
        show_report(console, result.report)
        console.print(closing, soft_wrap=True)
        terminal.warn(result.report.warnings)
    return 0


@contextmanager
def _said_if_written(output: Path) -> Iterator[None]:
    """Says so where an interruption comes after the model was written."""
    before = files.identity(output)
    try:
        yield
    except KeyboardInterrupt as stopped:
        if files.identity(output) == before:
            raise
        raise KeyboardInterrupt(f"{output} is written, what was to follow is not") from stopped


def _check_replay(arguments: Arguments) -> None:
    """Raises UsageError for an option that the plan has already answered."""
    defaults = defaults_of(Options)
    for name, flag in flags_of(Options).items():
        given = arguments.given.get(name, defaults[name])
        if flag.plan is not InPlan.OPEN and given != defaults[name]:
            raise UsageError(f"--replay applies what the plan says: drop {written(name, flag)}, which would plan anew")


def _protect(own: Condense, options: Options, output: Path) -> None:
    """Raises UsageError before a file would be written over, InputError where the model is not there."""
    source = Path(own.model)
    given = options.calibration if isinstance(options.calibration, list) else []
    inputs = files_read(source, options.data, own.replay, *given)
    if own.replay:
        inputs.append(Path(own.replay).with_suffix(".npz"))
    places = [*model_places(source, output), *document_places(own.plan, own.report)]
    protect(inputs, places, replaceable=own.force or own.dry_run)


def _write(output: Path, result: Result) -> str:
    """Writes the model: the input itself, byte for byte, where nothing was condensed. Returns what to say of it."""
    source = result.source
    if result.changed:
        files.save(result.outline, output, external=bool(source.external), source=source.path, step=source.step)
        return f"Wrote {output}"
    how = "byte for byte" if files.copy(source, output) else "but for the name of its weights' file"
    return f"{_why(result.report)}: {output} is the input, {how}."


def _written(report: Report, output: Path) -> Report:
    """The report, with the file that was written."""
    sha256, size = files.fingerprint(output)
    facts = replace(report.output or report.input, path=str(output), sha256=sha256, bytes=size)
    return replace(report, output=facts)


def _why(report: Report) -> str:
    """Why nothing was condensed."""
    if report.latency is not None and report.latency.rolled_back:
        return "Every reduction made it slower"
    if report.search is not None:
        return "Nothing could be condensed within the bound"
    return "Nothing to condense"
