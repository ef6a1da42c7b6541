"""`onnx-condense inspect`: what could be condensed, what not, and why."""

from __future__ import annotations

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import Inspect
from onnx_condense.cli.inputs import input_files, options_of
from onnx_condense.cli.places import (
    data_read,
    deliver_reports,
    files_read,
    model_of,
    printed,
    protect,
    said_what_is_there,
    tables,
)
from onnx_condense.cli.tables import show_analysis
from onnx_condense.pipeline import analyze


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own, options = arguments.of(Inspect), options_of(arguments)
    places = printed(own.report, own.json)
    protect([*files_read(own.model), *input_files(options)], places, own.force)
    with terminal.progress(own.quiet) as progress:
        source = model_of(own.model)
        protect(data_read(source), places, force=True)
        analysis = analyze(source, options, progress)
    with said_what_is_there(places):
        deliver_reports(own.report, analysis.to_json())
        if own.json:
            terminal.show_json(analysis.to_json())
        elif not own.quiet:
            show_analysis(terminal.output(tables(places)), analysis)
    return 0
