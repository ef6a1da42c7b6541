"""`onnx-condense bench`: how fast models are, against each other."""

from __future__ import annotations

from dataclasses import replace

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import LEVELS, Bench, Shared
from onnx_condense.cli.inputs import input_files, options_of
from onnx_condense.cli.places import deliver_reports, files_read, model_of, printed, protect, tables
from onnx_condense.cli.tables import show_benchmark
from onnx_condense.timing.benchmark import measure
from onnx_condense.timing.setup import Setup


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own, options = arguments.of(Bench), options_of(arguments)
    places = printed(own.report, own.json)
    models = [path for model in own.models for path in files_read(model)]
    protect([*models, *input_files(options)], places, own.force)
    setup = arguments.of(Setup)
    setup = replace(setup, data=options.data, input_shape=options.input_shape, seed=options.seed)
    with terminal.progress(own.quiet, moving=False) as progress:
        found = measure([model_of(model) for model in own.models], setup, progress=progress)
    deliver_reports(own.report, found.to_json())
    if own.json:
        terminal.show_json(found.to_json())
    elif not own.quiet:
        show_benchmark(terminal.output(tables(places)), found)
    if not own.quiet and arguments.of(Shared).level <= LEVELS["warning"]:
        terminal.warn(found.warnings)
    return 0
