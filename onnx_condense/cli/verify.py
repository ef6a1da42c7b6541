"""`onnx-condense verify`: compares two models."""

from __future__ import annotations

from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.commands import Verify
from onnx_condense.cli.inputs import input_files, options_of
from onnx_condense.cli.places import deliver_reports, files_read, model_of, printed, protect, tables
from onnx_condense.cli.tables import show_verification
from onnx_condense.errors import VerificationError
from onnx_condense.proving.compare import NOTHING_TOLD, verify


def execute(arguments: Arguments) -> int:
    """Runs the command and returns its exit code. Raises VerificationError above the tolerance."""
    own, options = arguments.of(Verify), options_of(arguments)
    places = printed(own.report, own.json)
    protect([*files_read(own.a), *files_read(own.b), *input_files(options)], places, own.force)
    shapes, seed = options.input_shape, options.seed
    found = verify(model_of(own.a), model_of(own.b), options.data, input_shape=shapes, seed=seed)
    if not found.outputs:
        raise VerificationError(NOTHING_TOLD)
    content = found.to_json(own.tolerance, (own.a, own.b))
    deliver_reports(own.report, content)
    if own.json:
        terminal.show_json(content)
    elif not own.quiet:
        show_verification(terminal.output(tables(places)), found)
    if not found.worst <= own.tolerance:
        worst, limit = f"{found.worst:.3g}", f"--tolerance {own.tolerance:g}"
        raise VerificationError(f"the models differ by {worst}, more than {limit}: a larger one allows more")
    if not found.told:
        raise VerificationError(NOTHING_TOLD)
    return 0
