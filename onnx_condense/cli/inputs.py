"""The inputs that a command was given: options with images as they are read, and the files that are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_condense.cli.arguments import Arguments
from onnx_condense.data.sources import Images, Pixels, files_of
from onnx_condense.errors import UsageError
from onnx_condense.options import Options


def options_of(arguments: Arguments) -> Options:
    """The options that were given. Raises UsageError where they say how images are read, and no image is given."""
    options, pixels = arguments.of(Options), arguments.of(Pixels)
    options = replace(options, data=pixels.of(options.data), calibration=pixels.of(options.calibration))
    if pixels != Pixels() and not any(isinstance(one, Images) for one in _given(options)):
        raise UsageError("--image-size, --mean and --std are for images: give some with --data or --calibration")
    return options


def input_files(options: Options) -> list[Path]:
    """The files of the inputs. Raises InputError."""
    return [path for one in _given(options) for path in files_of(one)]


def _given(options: Options) -> list[Any]:
    """What was given, one after the other."""
    several = options.calibration if isinstance(options.calibration, list) else [options.calibration]
    return [options.data, *several]
