"""`onnx-condense A.onnx B.onnx ...`: condenses several models, one after the other, and tables what came of them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import LEVELS, Condense, Shared
from onnx_condense.cli.condense import Job, job_of, recipe_of, workers
from onnx_condense.cli.places import (
    MODEL,
    PIPE,
    SOURCES,
    Destination,
    default_output,
    deliver,
    deliver_reports,
    place_of,
    protect,
    said_what_is_there,
    tables,
)
from onnx_condense.cli.streams import complain
from onnx_condense.documents import finite, head
from onnx_condense.errors import CondenseError, UsageError
from onnx_condense.progress import Step

CONDENSED = ".condensed.onnx"
"""How the names of models end that were made by default."""


@dataclass(frozen=True)
class Row:
    """What came of one model: its report, or the error that ended it and the exit code of that."""

    model: str
    output: str | None
    exit_code: int
    error: str | None
    report: Mapping[str, Any] | None


@dataclass(frozen=True)
class Several:
    """What came of several models. skipped: those that were made by this program."""

    models: tuple[Row, ...]
    skipped: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """The worst one."""
        return max((row.exit_code for row in self.models), default=0)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        result: dict[str, Any] = finite(head("several", 1) | asdict(self))
        return result


def execute(arguments: Arguments) -> int:
    """Runs the command for each model and returns the worst exit code. Raises UsageError before anything is written."""
    own, shared = arguments.of(Condense), arguments.of(Shared)
    _check(own)
    named = [name for name in own.models if not (name.endswith(CONDENSED) and len(own.models) > 1)]
    skipped = tuple(name for name in own.models if name not in named)
    if not named:
        raise UsageError("every model is an output of this program (*.condensed.onnx): name one alone to condense it")
    jobs = [_job(arguments, name, own.output) for name in named]
    documents = list(dict.fromkeys(place for job in jobs for place in (*job.documents, *job.recipes)))
    models = [] if own.dry_run else [Destination(MODEL, job.output) for job in jobs]
    protect([path for job in jobs for path in job.inputs], [*models, *documents], own.force)
    if skipped and not own.quiet:
        made = ", ".join(skipped)
        complain("warning", f"made by this program, and skipped: {made}; name one alone to condense it again")
    with said_what_is_there(documents):
        found = Several(tuple(_each(jobs, own, shared)), skipped)
        deliver_reports(own.report, found.to_json())
        for place in jobs[0].recipes:
            deliver(place.path, [recipe_of(arguments)])
    if own.json:
        terminal.show_json(found.to_json())
    elif not own.quiet:
        _show(terminal.output(tables(documents)), found)
    return found.exit_code


def _check(own: Condense) -> None:
    """Raises UsageError for what is of one model only."""
    if own.plan or own.replay:
        raise UsageError("--plan and --replay are of one model: name one")
    if own.costs_out:
        raise UsageError("--costs-out is of one model: name one")
    if own.output and not Path(own.output).is_dir():
        kind = "no folder" if os.path.lexists(own.output) or place_of(own.output) == PIPE else "not there"
        raise UsageError(f"-o {own.output} is {kind}: several models go into a folder that exists")
    if any(name in SOURCES for name in own.models):
        raise UsageError("- is standard input, which holds one model: name it alone")
    if any(name.lower().endswith((".html", ".htm")) for name in own.report):
        raise UsageError("a page tells of one model: take --report FILE.json, or name one model")


def _job(arguments: Arguments, model: str, folder: str | None) -> Job:
    output = default_output(model)
    return job_of(arguments, model, Path(folder) / output.name if folder else output)


def _each(jobs: Sequence[Job], own: Condense, shared: Shared) -> list[Row]:
    rows: list[Row] = []
    hidden = own.quiet or shared.level < LEVELS["warning"]
    with terminal.progress(hidden, moving=not jobs[0].options.measures) as bar, workers(own) as executor:
        for number, job in enumerate(jobs, 1):

            def note(stage: str, number: int = number, job: Job = job) -> None:
                if bar is not None:
                    bar(Step("model", number, len(jobs), f"{job.model}, {stage}"))

            single = replace(job, own=replace(own, report=()))
            try:
                report, _ = single.write(result := single.run(None, note, executor))
            except CondenseError as error:
                rows.append(Row(job.model, None, error.exit_code, str(error), None))
                continue
            output = None if own.dry_run else str(job.output)
            rows.append(Row(job.model, output, 0, None, report.to_json()))
            del result
    for row in rows:
        if row.error is not None:
            complain("error", row.error if row.model in row.error else f"{row.model}: {row.error}")
        elif row.report is not None and not own.quiet and shared.level <= LEVELS["warning"]:
            terminal.warn([f"{row.model}: {warning}" for warning in row.report["warnings"]])
    return rows


def _show(console: Console, found: Several) -> None:
    """A row for each model."""
    table = Table("model", "parameters", "left", "error", "written to", title="Models", title_justify="left")
    for row in found.models:
        if row.report is None:
            table.add_row(row.model, "", "", "", f"nothing, exit code {row.exit_code}", style="red")
            continue
        before, after = row.report["input"]["parameters"], (row.report["output"] or row.report["input"])["parameters"]
        verified = row.report["verification"]
        error = verified["approximation_error"] if verified else math.nan
        told = "unknown" if error is None else "-" if math.isnan(error) else f"{error:.2g}"
        sizes = f"{before:,}" if before == after else f"{before:,} → {after:,}"
        table.add_row(row.model, sizes, f"{after / max(1, before):.1%}", told, row.output or "dry run")
    console.print(table)
    bad = sum(row.exit_code != 0 for row in found.models)
    done = f"{len(found.models) - bad} of {len(found.models)} models are done"
    console.print(done + (f", {bad} failed." if bad else "."), style="red" if bad else "green", soft_wrap=True)
