"""Condensing without loss."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx

from onnx_condense import Options, condense
from support.planted.net import assert_close, widths

LOSSLESS = Options(lossless=True, align=1)


def condensed(model: onnx.ModelProto, expected: Mapping[str, int] = MappingProxyType({})) -> onnx.ModelProto:
    """Condensed without loss to these widths, and the function kept."""
    onnx.checker.check_model(model)
    result = condense(model, LOSSLESS).model
    onnx.checker.check_model(result, full_check=True)
    found = widths(result)
    assert {name: found.get(name) for name in expected} == expected
    assert_close(model, result, 2e-5)
    return result
