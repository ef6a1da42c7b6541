"""The one door to onnxruntime: quiet sessions, clear errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Any, TypeAlias
from weakref import WeakSet

import numpy as np
import onnx
import onnxruntime as ort
import psutil
from google.protobuf.message import EncodeError

from onnx_condense.arrays import Array
from onnx_condense.errors import InputError, LimitError, UsageError, first_line
from onnx_condense.model.checking import loops
from onnx_condense.model.held import ROOT, holds, let_go
from onnx_condense.model.protos import opset_of
from onnx_condense.trust import has_read_loops, trusted

Session: TypeAlias = ort.InferenceSession

CPU = "CPUExecutionProvider"

FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime's option for where it finds the files that a model in memory names."""

UNPACKED = "session.disable_prepacking"
"""Its option for weights that are used where they are, instead of being written anew for its kernels."""

PLACE = re.compile(r"^\S+\.(cc|h):\d+ [^'\n]*?::[^'\n]*?\) (?=[A-Z])")
"""Where in its own source, and in which C++ function, onnxruntime found something: nothing to a user."""

HEAD = "[ONNXRuntimeError]"
"""How it begins what it says, and what it quotes of itself."""

OLDEST = 7
"""First opset that onnxruntime promises to run."""

UNREGISTERED = "is not a registered function/op"
"""What onnxruntime says of an operator that it does not know."""

_TIMED: WeakSet[Session] = WeakSet()
"""The sessions whose models have loops, or may: only these can run without an end."""

ort.set_default_logger_severity(4)


def to_bytes(model: onnx.ModelProto) -> bytes:
    """A model as onnxruntime takes it. Raises InputError where protobuf does not allow its size."""
    try:
        return model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError("the model in memory is larger than 2 GB: save it to a file and pass its path") from error


def packs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime may copy a model's weights for its kernels: large ones are used where they are.

    Kernels of operators that are not ONNX's own may need it.
    """
    return not holds(model) or any(node.domain for node in model.graph.node)


def session(
    model: onnx.ModelProto | bytes | Path,
    optimize: bool = True,
    save_to: str = "",
    packed: bool = True,
    pooled: bool = True,
) -> Session:
    """A session that is run a few times, for what it gives. Raises InputError when onnxruntime refuses the model.

    Args:
        model: the model, its bytes, or its file.
        optimize: all graph optimizations, or none.
        save_to: where onnxruntime writes the graph that it optimized; "" for nowhere.
        packed: as `packs` says; it is asked where the model is no bytes.
        pooled: whether memory of one run is kept for the next.
    """
    options = _options(optimize)
    options.enable_cpu_mem_arena = options.enable_mem_pattern = pooled
    options.optimized_model_filepath = save_to
    if not packed or (isinstance(model, onnx.ModelProto) and not packs(model)):
        options.add_session_config_entry(UNPACKED, "1")
    return _opened(model, options, CPU)


def deployed(
    model: onnx.ModelProto | bytes | Path, threads: int = 0, provider: str = CPU, profile_to: str = ""
) -> Session:
    """A session as a user of the model has it, to be timed. Raises InputError when onnxruntime refuses the model.

    Args:
        model: the model, its bytes, or its file.
        threads: of one operator; 0 leaves it to onnxruntime.
        provider: onnxruntime's name of what executes.
        profile_to: start of the path of the file that `end_profiling` writes; "" for no profile.
    """
    options = _options(spins=True)
    options.intra_op_num_threads = threads
    options.enable_profiling = bool(profile_to)
    if profile_to:
        options.profile_file_prefix = profile_to
    return _opened(model, options, provider)


def sizing(model: onnx.ModelProto) -> Session:
    """A session that is asked for sizes: nothing is optimized, and held weights stay where they are.

    What asks for a shape runs as soon as its tensor is there: behind all else, every tensor would stay until then.

    Raises InputError when onnxruntime refuses the model.
    """
    options = _options(optimize=False)
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    if holds(model):
        options.add_session_config_entry(UNPACKED, "1")
    return _opened(model, options, CPU)


def _options(optimize: bool = True, spins: bool = False) -> ort.SessionOptions:
    """spins: whether threads wait busily for more work within a run."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else idle sessions burn the others' cores
    if not spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = _cores()
    _bring(options)
    return options


@cache
def _cores() -> int:
    """As many threads as onnxruntime would take by itself, 0 where that is not known.

    By itself it also ties each to a core of its own: where another program holds that one, all others wait busily.
    """
    return psutil.cpu_count(logical=False) or 0


def _opened(model: onnx.ModelProto | bytes | Path, options: ort.SessionOptions, provider: str) -> Session:
    opset, timed = OLDEST, has_read_loops()
    if isinstance(model, onnx.ModelProto):
        opset, timed, model = opset_of(model.opset_import), loops(model), to_bytes(model)
    if isinstance(model, bytes):
        let_go()
        options.add_session_config_entry(FOLDER, ROOT)
    try:
        made = ort.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise InputError(f"onnxruntime cannot load the model: {_reason(error, opset)}") from error
    if timed:
        _TIMED.add(made)
    return made


def run(active: Session, outputs: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
    """Runs a session on arrays of any shape.

    Raises InputError when the inputs do not fit the model, LimitError where its loops take longer than they may.
    """
    how, seconds = ort.RunOptions(), trusted().limit_seconds if active in _TIMED else 0.0
    how.log_severity_level = 4
    watch = Timer(seconds, lambda: setattr(how, "terminate", True)) if seconds else None
    try:
        if watch is not None:
            watch.start()
        result: list[Array] = active.run(list(outputs) if outputs is not None else None, dict(feed), how)
    except Exception as error:  # as above: no public base
        if how.terminate:
            raise LimitError(
                f"the model has loops and runs for more than {seconds:g} s: allow more with --limit-seconds"
            ) from error
        raise InputError(f"onnxruntime cannot run the model on these inputs: {_reason(error)}") from error
    finally:
        if watch is not None:
            watch.cancel()
    return result


def released(value: Any) -> Any:
    """An output that is kept, as memory of its own: that of onnxruntime holds all that its session has allocated."""
    return value.copy() if isinstance(value, np.ndarray) else value


def _bring(options: ort.SessionOptions) -> None:
    """Adds the operators of the library that is trusted. Raises UsageError where it holds none."""
    library = trusted().custom_ops
    if library is None:
        return
    try:
        options.register_custom_ops_library(library)
    except Exception as error:  # as above
        raise UsageError(f"--custom-ops {library} cannot be loaded: {_reason(error)}") from error


def _reason(error: BaseException, opset: int = OLDEST) -> str:
    """What onnxruntime says, and advice; `opset`: of the model."""
    text = str(error)
    said = text.split(HEAD)[-1]
    reason = first_line(PLACE.sub("", said.split(" : ", 3)[-1]) if text.startswith(HEAD) else text)
    if opset < OLDEST:
        return f"{reason} (its opset is {opset}: convert it to {OLDEST} or later with onnx.version_converter)"
    if "NOT_IMPLEMENTED" in text:
        reason += " (onnxruntime's CPU has no kernel for its types: convert the model to float32 first)"
    if UNREGISTERED in text:
        reason += " (give the library that holds it with --custom-ops)"
    return reason
