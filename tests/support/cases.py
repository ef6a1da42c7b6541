"""Every planted case: importing a family registers its cases."""

from __future__ import annotations

import planted_balance
import planted_cases
import planted_compounds
import planted_fused
import planted_graphs
import planted_more
import planted_quantized
import planted_recurrent
import planted_rows
from planted import CASES

FAMILIES = (
    planted_balance,
    planted_cases,
    planted_compounds,
    planted_fused,
    planted_graphs,
    planted_more,
    planted_quantized,
    planted_recurrent,
    planted_rows,
)

__all__ = ["CASES", "FAMILIES"]
