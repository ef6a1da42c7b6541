"""`onnx-condense`: condenses a model, and writes what came of it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx_condense.cli import recipes, terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import LEVELS, Condense, Shared
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
    printed,
    protect,
    said_what_is_there,
    tables,
)
from onnx_condense.cli.summary import show_alternatives, show_summary
from onnx_condense.cli.tables import show_report
from onnx_condense.data.sources import Pixels
from onnx_condense.errors import UsageError
from onnx_condense.flags import InPlan, defaults_of, flags_of, written
from onnx_condense.goals import Latency
from onnx_condense.merging.plan import Plan
from onnx_condense.model import files
from onnx_condense.options import Options
from onnx_condense.pipeline import condense
from onnx_condense.progress import Progress
from onnx_condense.refitting.samples import dask
from onnx_condense.report.values import Report, Result
from onnx_condense.trust import Trust


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own = arguments.of(Condense)
    if len(own.models) > 1 or (own.output or "").endswith("/"):
        from onnx_condense.cli.several import execute as execute_several  # which runs this one for each

        return execute_several(arguments)
    if own.replay:
        _check_replay(arguments)
    job = job_of(arguments, own.models[0], place_of(own.output) if own.output else default_output(own.models[0]))
    job.protect()
    replay = Plan.load(Path(own.replay)) if own.replay else None
    shared = arguments.of(Shared)
    watched = terminal.progress(own.quiet or shared.level < LEVELS["warning"], moving=not job.options.measures)
    with watched as progress, workers(own) as executor:
        result = job.run(replay, progress, executor)
    with said_what_is_there(job.places):
        report, closing = job.write(result)
        recipe = recipe_of(arguments)
        for place in job.recipes:
            deliver(place.path, [recipe])
        if own.json:
            terminal.show_json(report.to_json())
        elif not own.quiet:
            console = terminal.output(tables([*job.documents, Destination(MODEL, job.output)]))
            show_report(console, result.report)
            show_alternatives(console, report)
            console.print(closing, soft_wrap=True)
            if not own.dry_run:
                named = result.source.path and job.output.is_file()
                show_summary(console, report, [job.model, str(job.output)] if named else [])
        if not own.quiet and shared.level <= LEVELS["warning"]:
            terminal.warn(result.report.warnings)
    return 0


@dataclass(frozen=True)
class Job:
    """One model: its name, where it goes, what is asked for, and the documents and recipes that are written beside."""

    model: str
    output: Path
    own: Condense
    options: Options
    documents: list[Destination]
    recipes: list[Destination]

    @property
    def places(self) -> list[Destination]:
        """All that is written."""
        written = [] if self.own.dry_run else [Destination(MODEL, self.output)]
        return [*self.documents, *self.recipes, *written]

    @property
    def inputs(self) -> list[Path]:
        """The files that are read. Raises InputError where the model is not there."""
        table = os.fspath(self.options.latency_for) if self.options.latency_for is not None else None
        return [*files_read(self.model, self.own.replay, table), *input_files(self.options)]

    def protect(self) -> None:
        """Raises UsageError before a file would be written over, InputError where the model is not there."""
        inputs, model = self.inputs, [Destination(MODEL, self.output)]
        if self.own.dry_run:
            protect(inputs, [] if self.output == PIPE else model, force=True)
        documents = [*self.documents, *self.recipes]
        protect(inputs, [*([] if self.own.dry_run else model), *documents], self.own.force)

    def run(self, replay: Plan | None, progress: Progress | None, executor: Executor | None) -> Result:
        """Condenses it."""
        if progress is not None:
            progress("load")
        source = model_of(self.model)
        places = [*data_places(source, self.output), Destination(MODEL, self.output), *self.documents, *self.recipes]
        protect(data_read(source), places, force=True)
        dry = self.own.dry_run
        return condense(source, self.options, replay=replay, dry_run=dry, progress=progress, executor=executor)

    def write(self, result: Result) -> tuple[Report, str]:
        """Writes the plan, the model and the reports. Returns the report, and what to say of the model."""
        if self.own.plan:
            deliver(place_of(self.own.plan), result.plan.chunks())
        if self.own.costs_out and result.costs is not None:
            deliver(place_of(self.own.costs_out), [result.costs.encoded()])
        report, closing = result.report, "Dry run: no model was written."
        if not self.own.dry_run:
            report, closing = _write(self.output, result, self.options.open)
        if self.own.report:
            deliver_reports(self.own.report, report.to_json(), {"cosines": [one.to_json() for one in result.cosines]})
        return report, closing


def job_of(arguments: Arguments, model: str, output: Path) -> Job:
    """The job of one model among the arguments. Raises UsageError where a format takes what is not installed."""
    own, options = arguments.of(Condense), options_of(arguments)
    if own.costs_out and not (isinstance(options.goal, Latency) and options.latency_for is None):
        raise UsageError("--costs-out writes what --budget latency=F measures on this host: drop it")
    documents = [*document_places(own.plan, own.report, own.costs_out), *printed((), own.json)]
    places = dict.fromkeys(recipes.beside(name) for name in own.report if name and is_kept(name))
    return Job(model, output, own, options, documents, [Destination("--report", place) for place in places])


def is_kept(report: str) -> bool:
    """Whether a report is a file, beside which something can lie."""
    path = place_of(report)
    return path != PIPE and (os.path.isfile(path) or not os.path.exists(path))


def recipe_of(arguments: Arguments) -> bytes:
    """The recipe of a run: what decides its result."""
    own, options = arguments.of(Condense), arguments.of(Options)
    more: dict[str, Any] = {"replay": own.replay, "dask": own.dask}
    return recipes.recipe(
        [options, arguments.of(Pixels), arguments.of(Trust)], "onnx-condense MODEL --recipe THIS.toml", more
    )


def workers(own: Condense) -> AbstractContextManager[Executor | None]:
    """Those of a cluster, where one is named."""
    return dask(own.dask) if own.dask else nullcontext()


def _check_replay(arguments: Arguments) -> None:
    """Raises UsageError for an option that the plan has already answered."""
    defaults = defaults_of(Options)
    for name, flag in flags_of(Options).items():
        given = arguments.given.get(name, defaults[name])
        if flag.plan is not InPlan.OPEN and given != defaults[name]:
            raise UsageError(f"--replay applies what the plan says: drop {written(name, flag)}, which would plan anew")


def _write(output: Path, result: Result, by_default: bool) -> tuple[Report, str]:
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
    closing = f"{_why(report, by_default)}: {there} is {said}." if said else f"Wrote {there}"
    return replace(report, output=facts), closing


def _why(report: Report, by_default: bool) -> str:
    """Why nothing was condensed."""
    if report.latency is not None and report.latency.rolled_back:
        return "Every reduction made it slower"
    if report.search is not None:
        return f"Nothing {'to condense' if by_default else 'could be condensed'} within the bound"
    return "Nothing to condense"
