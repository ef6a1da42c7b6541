"""Every planted case: importing a family registers its cases."""

from __future__ import annotations

from support.planted import (
    balance,
    compounds,
    constants,
    functions,
    fused,
    joins,
    more,
    products,
    quantized,
    recurrent,
    windows,
)
from support.planted.cases import CASES

FAMILIES = (balance, compounds, constants, functions, fused, joins, more, products, quantized, recurrent, windows)

__all__ = ["CASES", "FAMILIES"]
