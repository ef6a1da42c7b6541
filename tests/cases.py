"""Every planted case: importing a family registers its cases."""

from __future__ import annotations

import planted_balance
import planted_cases
import planted_graphs
import planted_more
from planted import CASES

FAMILIES = (planted_balance, planted_cases, planted_more, planted_graphs)

__all__ = ["CASES", "FAMILIES"]
