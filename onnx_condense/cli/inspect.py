"""`onnx-condense inspect`: what could be condensed, what not, and why."""

from __future__ import annotations

from pathlib import Path

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import Inspect
from onnx_condense.cli.places import document_places, files_read, protect
from onnx_condense.cli.tables import show_analysis
from onnx_condense.options import Options
from onnx_condense.pipeline import analyze
from onnx_condense.report.formats import write_document


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own, options = arguments.of(Inspect), arguments.of(Options)
    protect(files_read(Path(own.model), options.data), document_places(None, own.report))
    with terminal.progress() as progress:
        analysis = analyze(Path(own.model), options, progress)
    if own.report:
        write_document(Path(own.report), analysis.to_json())
    show_analysis(terminal.output(), analysis)
    return 0
