"""What a run is, in the journal's first line, so that only the same command resumes it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_condense._version import __version__
from onnx_condense.auto.machine import FORMAT, VERSION, settings_of
from onnx_condense.auto.settings import DEFAULT_MERGE, Settings
from onnx_condense.auto.state import Event
from onnx_condense.data.sources import Images, files_of
from onnx_condense.documents import check_regular
from onnx_condense.errors import InputError, UsageError
from onnx_condense.model.inputs import Inputs
from onnx_condense.options import Method, Options

ADVICE = "repeat the same command to resume it, or start a new --work"

_log = logging.getLogger(__name__)


def taken(options: Options) -> Options:
    """The options of every reduction: with a merge method, and with inputs that can be read again and again.

    Only widths change: a trainer gets the layers that it knows.

    Raises UsageError for options that the loop decides by itself.
    """
    if options.lossless or options.threshold is not None or options.layer_threshold or options.tolerance is not None:
        raise UsageError("auto chooses the thresholds: drop --threshold, --layer-threshold, --lossless and --tolerance")
    if options.ensure_faster or options.budgeted:
        raise UsageError("auto trains until a target is met: drop --ensure-faster, --budget and --evaluate")
    given = options.calibration
    if given is not None and not isinstance(given, str | os.PathLike | Mapping):
        given = tuple(given)
    merge = options.merge or (DEFAULT_MERGE if given is None else Method.CALIBRATED)
    return replace(options, merge=merge, calibration=given, widths_only=True)


def begin_line(
    model: str, parameters: int, source_sha256: str, settings: Settings, options: Options, align: int
) -> dict[str, Any]:
    """The journal's first line. `align`: the multiple that the host asked for when the run began."""
    return {
        "event": "begin",
        "format": FORMAT,
        "version": VERSION,
        "tool": __version__,
        "source_sha256": source_sha256,
        "model": model,
        "parameters": parameters,
        "settings": settings.to_json(),
        "options": _condensing(options) | {"align": align, "align_asked": options.align},
        "inputs": _digests(options),
    }


def check_same(folder: Path, first: Event, source_sha256: str, settings: Settings, options: Options) -> None:
    """Raises UsageError unless a run began with this model, these settings, options and inputs."""
    began = settings_of(first).to_json()
    if first["source_sha256"] != source_sha256:
        raise UsageError(f"the run in {folder} began with another model: use that one, or a new --work")
    asked = _condensing(Options()) | first["options"] | {"align": first["options"]["align_asked"]}
    asked.pop("align_asked")
    for before, now in ((began, settings.to_json()), (asked, _condensing(options))):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise UsageError(
                    f"the run in {folder} began with --{name.replace('_', '-')} {before.get(name)}, not "
                    f"{now.get(name)}: {ADVICE}"
                )
    for name, before, found in _inputs(first, options):
        if before != found:
            how = f"without --{name}" if before is None else f"with {'other' if found else ''} --{name} inputs"
            raise UsageError(f"the run in {folder} began {' '.join(how.split())}: {ADVICE}")
    if first["tool"] != __version__:
        _log.warning("the run began with version %s, this is %s: it goes on with this one", first["tool"], __version__)


def check_inputs(first: Event, options: Options) -> None:
    """Raises InputError where input files are no longer what they were when the run began."""
    for name, before, found in _inputs(first, options):
        if before != found:
            raise InputError(f"the file of --{name} has changed since the run began: restore it, then run it again")


def _inputs(first: Event, options: Options) -> list[tuple[str, list[str] | None, list[str] | None]]:
    """(option, sha256 of its inputs when the run began, sha256 at present)."""
    began = first.get("inputs", {})
    return [(name, began.get(name), found) for name, found in _digests(options).items()]


def _digests(options: Options) -> dict[str, list[str] | None]:
    """sha256 of everything that --data and --calibration name. Raises InputError."""
    inputs = {"data": options.data, "calibration": options.calibration}
    return {name: None if given is None else _digests_of(given) for name, given in inputs.items()}


def _digests_of(given: Any) -> list[str]:
    """Of everything that was given: of arrays, of the files that a path names, of many images one for all."""
    found = []
    for one in [given] if isinstance(given, str | os.PathLike | Mapping) else given:
        own = [_sha256(part) for part in ([one] if isinstance(one, Mapping) else files_of(one))]
        whole = hashlib.sha256(repr((one.pixels, own)).encode()).hexdigest() if isinstance(one, Images) else ""
        found += [whole] if whole else own
    return found


def _sha256(inputs: Inputs) -> str:
    """Of a file's bytes, or of arrays with their names, types and shapes. Raises InputError."""
    if not isinstance(inputs, Mapping):
        check_regular(Path(inputs))
        try:
            with open(inputs, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"cannot read {os.fspath(inputs)} ({error.strerror}): check the path") from error
    digest = hashlib.sha256()
    for name in sorted(inputs):
        array = np.asarray(inputs[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def _condensing(options: Options) -> dict[str, Any]:
    """The options that matter here, as JSON values."""
    content = options.to_json()
    for name in ("threshold", "layer_threshold", "lossless", "tolerance", "sequential"):
        content.pop(name)
    return content
