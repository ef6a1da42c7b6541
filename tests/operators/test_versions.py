"""Which opset states numbers in which input, against the standard."""

from __future__ import annotations

import onnx
import pytest

from onnx_condense.operators.versions import INPUTS, input_for

STATED = [(operator, name, opset) for operator, name in INPUTS for opset in range(5, 24)]


@pytest.mark.parametrize(("operator", "name", "opset"), STATED)
def test_inputs_are_those_of_the_standard(operator: str, name: str, opset: int) -> None:
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == operator and s.domain == ""]
    known = [s for s in schemas if s.since_version <= opset]
    if not known:
        pytest.skip("not there yet")
    schema = max(known, key=lambda s: s.since_version)
    inputs = [{"constant_value": "value"}.get(i.name, i.name) for i in schema.inputs]
    at = input_for(operator, name, opset)
    assert schema.deprecated or at == (inputs.index(name) if name in inputs else None)
