"""`onnx-condense`: condenses a model, and writes what came of it."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import Condense
from onnx_condense.cli.inputs import input_files, options_of
from onnx_condense.cli.places import (
    MODEL,
    PIPE,
    Destination,
    data_places,
    data_read,
    default_output,
    deliver,
    deliver_reports,
    document_places,
    files_read,
    model_of,
    place_of,
    protect,
    said_what_is_there,
    tables,
)
from onnx_condense.cli.tables import show_report, show_summary
from onnx_condense.errors import UsageError
from onnx_condense.flags import InPlan, defaults_of, flags_of, written
from onnx_condense.merging.plan import Plan
from onnx_condense.model import files
from onnx_condense.options import Options
from onnx_condense.pipeline import condense
from onnx_condense.refitting.samples import dask
from onnx_condense.report.values import Report, Result


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own = arguments.of(Condense)
    if own.replay:
        _check_replay(arguments)
    options = options_of(arguments)
    output = place_of(own.output) if own.output else default_output(own.model)
    documents = document_places(own.plan, own.report)
    _protect(own, options, output, documents)
    replay = Plan.load(Path(own.replay)) if own.replay else None
    workers = dask(own.dask) if own.dask else nullcontext()
    with terminal.progress(own.quiet) as progress, workers as executor:
        if progress is not None:
            progress("load")
        source = model_of(own.model)
        protect(data_read(source), [*data_places(source, output), Destination(MODEL, output), *documents], force=True)
        result = condense(source, options, replay=replay, dry_run=own.dry_run, progress=progress, executor=executor)
    places = [*documents, *([] if own.dry_run else [Destination(MODEL, output)])]
    with said_what_is_there(places):
        if own.plan:
            deliver(place_of(own.plan), result.plan.chunks())
        report, closing = result.report, "Dry run: no model was written."
        if not own.dry_run:
            report, closing = _write(output, result)
        if own.report:
            cosines = [one.to_json() for one in result.cosines]
            deliver_reports(own.report, report.to_json(), {"cosines": cosines})
        if not own.quiet:
            console = terminal.output(tables(places))
            show_report(console, result.report)
            console.print(closing, soft_wrap=True)
            if not own.dry_run:
                show_summary(console, report, [own.model, str(output)] if source.path and output != PIPE else [])
            terminal.warn(result.report.warnings)
    return 0


def _check_replay(arguments: Arguments) -> None:
    """Raises UsageError for an option that the plan has already answered."""
    defaults = defaults_of(Options)
    for name, flag in flags_of(Options).items():
        given = arguments.given.get(name, defaults[name])
        if flag.plan is not InPlan.OPEN and given != defaults[name]:
            raise UsageError(f"--replay applies what the plan says: drop {written(name, flag)}, which would plan anew")


def _protect(own: Condense, options: Options, output: Path, documents: list[Destination]) -> None:
    """Raises UsageError before a file would be written over, InputError where the model is not there."""
    inputs = [*files_read(own.model, own.replay), *input_files(options)]
    model = [Destination(MODEL, output)]
    if own.dry_run:
        protect(inputs, [] if output == PIPE else model, force=True)
    protect(inputs, [*([] if own.dry_run else model), *documents], own.force)


def _write(output: Path, result: Result) -> tuple[Report, str]:
    """Writes the model: the input itself, byte for byte, where nothing was condensed.

    Returns the report, with the file that was written, and what to say of it.
    """
    source, report = result.source, result.report
    if output == PIPE or (output.exists() and not output.is_file()):
        data = files.whole(result.model, source)
        deliver(output, [data])
        stored = files.Stored(hashlib.sha256(data).hexdigest(), len(data))
        said = "the input" if not result.changed else ""
    elif result.changed:
        apart = bool(source.external)
        stored = files.save(result.outline, output, external=apart, source=source.path, step=source.step)
        said = ""
    else:
        same, stored = files.copy(source, output)
        how = "byte for byte" if same else "but for the name of its weights' file"
        said = f"the input, {how}"
    facts = replace(report.output or report.input, path=str(output), sha256=stored.sha256, bytes=stored.size)
    there = "standard output" if output == PIPE else str(output)
    closing = f"{_why(report)}: {there} is {said}." if said else f"Wrote {there}"
    return replace(report, output=facts), closing


def _why(report: Report) -> str:
    """Why nothing was condensed."""
    if report.latency is not None and report.latency.rolled_back:
        return "Every reduction made it slower"
    if report.search is not None:
        return "Nothing could be condensed within the bound"
    return "Nothing to condense"
