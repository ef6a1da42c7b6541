"""Every planted case: importing a family registers its cases."""

from __future__ import annotations

import planted_cases
import planted_more
import planted_recurrent
from planted import CASES

FAMILIES = (planted_cases, planted_more, planted_recurrent)

__all__ = ["CASES", "FAMILIES"]
