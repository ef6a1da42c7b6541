"""`onnx-condense bench`: how fast models are, against each other."""

from __future__ import annotations

from dataclasses import replace

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import Bench
from onnx_condense.cli.places import model_of
from onnx_condense.cli.tables import show_benchmark
from onnx_condense.options import Options
from onnx_condense.timing.benchmark import measure
from onnx_condense.timing.setup import Setup


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own, options = arguments.of(Bench), arguments.of(Options)
    setup = arguments.of(Setup)
    setup = replace(setup, data=options.data, input_shape=options.input_shape, seed=options.seed)
    with terminal.progress(moving=False) as progress:
        found = measure([model_of(model) for model in own.models], setup, progress=progress)
    if own.json:
        terminal.show_json(found.to_json())
    else:
        show_benchmark(terminal.output(), found)
    terminal.warn(found.warnings)
    return 0
