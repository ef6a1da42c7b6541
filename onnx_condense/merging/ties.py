"""Tables that are held once, in plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnx_condense.forms.tied import Tie
from onnx_condense.merging.entries import word
from onnx_condense.merging.factors import orthonormal
from onnx_condense.merging.long_arrays import put, take


def tie_to_json(tie: Tie) -> dict[str, Any]:
    """As a JSON object; long arrays stand in it as they are."""
    basis = None if tie.basis is None else put(tie.basis)
    return {"table": tie.table, "copies": list(tie.copies), "basis": basis}


def tie_from_json(content: Mapping[str, Any]) -> Tie:
    """The inverse. Raises ValueError, KeyError or TypeError for what no run gives."""
    copies = tuple(map(word, content["copies"]))
    basis = None if content["basis"] is None else orthonormal(np.asarray(take(content["basis"]), dtype=np.float64))
    return Tie(word(content["table"]), copies, basis)
