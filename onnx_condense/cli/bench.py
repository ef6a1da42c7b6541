"""`onnx-condense bench`: how fast models are, against each other."""

from __future__ import annotations

from dataclasses import replace

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import LEVELS, Bench, Shared
from onnx_condense.cli.inputs import input_files, options_of
from onnx_condense.cli.places import (
    Destination,
    deliver,
    deliver_reports,
    files_read,
    model_of,
    place_of,
    printed,
    protect,
    tables,
)
from onnx_condense.cli.tables import show_benchmark
from onnx_condense.errors import UsageError
from onnx_condense.model.runtime import CPU
from onnx_condense.options import Options
from onnx_condense.planning.hardware import THIS_MACHINE
from onnx_condense.timing.benchmark import measure
from onnx_condense.timing.setup import Setup


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code."""
    own, options = arguments.of(Bench), options_of(arguments)
    if own.costs:
        return _costs(arguments, own, options)
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


def _costs(arguments: Arguments, own: Bench, options: Options) -> int:
    """Writes the cost table of one model."""
    from onnx_condense.planning.target import Conditions, costs_of  # races need none of it

    setup = arguments.of(Setup)
    if len(own.models) > 1 or len(setup.batches) > 1:
        raise UsageError("--costs is of one model at one batch size: name one")
    if own.report or setup.with_profile or setup.provider != CPU:
        raise UsageError("--costs is in the place of a race on the CPU: drop --report, --profile and --provider")
    assert own.costs is not None
    places = [Destination("--costs", place_of(own.costs)), *printed((), own.json)]
    protect([*files_read(own.models[0]), *input_files(options)], places, own.force)
    batch = setup.batches[0] if setup.batches else None
    with terminal.progress(own.quiet, moving=False) as progress:
        note = progress or (lambda stage: None)
        conditions = Conditions(setup.threads, batch)
        found = costs_of(model_of(own.models[0]), options, conditions, THIS_MACHINE, note)
    deliver(place_of(own.costs), [found.encoded()])
    if own.json:
        terminal.show_json(found.to_json())
    elif not own.quiet:
        points = sum(len(layer.points) for layer in found.layers)
        counts = f"{len(found.layers)} layers at {points} widths"
        terminal.output(tables(places)).print(
            f"Wrote {own.costs}: {counts}, of {found.wholes[0].seconds:.3g} s a run at batch {found.batch}",
            soft_wrap=True,
        )
    return 0
