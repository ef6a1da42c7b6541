"""Every planted case: importing a family registers its cases."""

from __future__ import annotations

from support.planted import balance, cases, compounds, fused, graphs, more, quantized, recurrent, rows
from support.planted.net import CASES

FAMILIES = (balance, cases, compounds, fused, graphs, more, quantized, recurrent, rows)

__all__ = ["CASES", "FAMILIES"]
