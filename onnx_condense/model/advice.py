"""What to do where no inputs can be generated: the very line that writes some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from onnx_condense.errors import InputError
from onnx_condense.model.trial import Trial
from onnx_condense.trust import INPUTS

if TYPE_CHECKING:
    from onnx_condense.model.inputs import InputSpec


def advice(runner: Trial, specs: Sequence[InputSpec], tried: Sequence[Mapping[str, int]]) -> str:
    """A line that writes an .npz of inputs, which run where any plain ones do. tried: sizes of symbolic dims."""
    if not specs:
        return "it has no inputs that could be others, so it is damaged"
    tried = [symbols for symbols in tried if all(prod(spec.shape(symbols)) <= INPUTS for spec in specs)]
    if not tried:
        return "give the sizes with --input-shape, or inputs with --data"
    runs = next((symbols for symbols in tried if _runs(runner, specs, symbols)), None)
    made = ", ".join(f"{s.name!r}: n.{_plain(s)}({s.shape(runs or tried[0])}, {s.dtype.name!r})" for s in specs)
    line = f"python -c \"import numpy as n; n.savez('inputs.npz', **{{{made}}})\""
    if runs is not None:
        return f"give inputs with --data inputs.npz; {line} writes plain ones that run: put yours in their place"
    sized = next((f"{s.name}={'x'.join(map(str, s.shape(tried[0])))}" for s in specs if s.dims), None)
    option = f"give sizes that fit, as --input-shape {sized}, or inputs" if sized else "give inputs that fit"
    return f"{option} with --data inputs.npz, written as {line} does"


def _runs(runner: Trial, specs: Sequence[InputSpec], symbols: Mapping[str, int]) -> bool:
    """Whether the model runs on zeros for integers and ones for all others."""
    try:
        runner({s.name: np.full(s.shape(symbols), _plain(s) == "ones", s.dtype) for s in specs})
    except InputError:
        return False
    return True


def _plain(spec: InputSpec) -> str:
    """The function of numpy that makes plain inputs: zeros are in every vocabulary, ones hide nothing."""
    return "zeros" if spec.dtype.kind in "iu" else "ones"
