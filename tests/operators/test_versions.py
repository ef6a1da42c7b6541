"""Which opset states numbers in which input, against the standard."""

from __future__ import annotations

import onnx
import pytest

from onnx_condense.operators.versions import INPUTS, input_for

SCHEMAS = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]


@pytest.mark.parametrize(("operator", "name"), INPUTS)
def test_inputs_are_those_of_the_standard(operator: str, name: str) -> None:
    schemas = [schema for schema in SCHEMAS if schema.name == operator]
    for opset in range(5, 24):
        known = [s for s in schemas if s.since_version <= opset]
        if not known:
            continue
        schema = max(known, key=lambda s: s.since_version)
        inputs = [{"constant_value": "value"}.get(i.name, i.name) for i in schema.inputs]
        at = input_for(operator, name, opset)
        assert schema.deprecated or at == (inputs.index(name) if name in inputs else None), opset
