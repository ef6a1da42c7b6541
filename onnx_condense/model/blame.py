"""Whose fault it is where reading a model ends in an exception that nobody raised on purpose: the file's, or ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from onnx_condense.errors import CondenseError, InputError, first_line
from onnx_condense.model import wire
from onnx_condense.model.held import holds
from onnx_condense.model.protos import PROTOBUF_LIMIT
from onnx_condense.model.runtime import session


@contextmanager
def blamed(model: onnx.ModelProto, label: str) -> Iterator[None]:
    """Raises InputError for an exception in the block where onnxruntime or onnx refuse the model.

    What they take is not at fault: then the exception goes on, as an error of this program. `label` names the model.
    """
    try:
        yield
    except (CondenseError, MemoryError):
        raise
    except Exception as error:  # damage shows anywhere: who is to blame is asked below
        fault = _fault(model)
        if fault is None:
            raise
        raise InputError(f"{label} is damaged or unsupported: {fault}") from error


def _fault(model: onnx.ModelProto) -> str | None:
    """What is wrong with a model, None where nothing is."""
    if wire.size(model) >= PROTOBUF_LIMIT:
        return None
    try:
        session(model, optimize=False)
        if not holds(model):
            onnx.checker.check_model(model)
    except InputError as error:
        return str(error)
    except Exception as error:  # of onnx, of pybind, of protobuf
        return first_line(error)
    return None
