"""Every planted case: importing a family registers its cases."""

from __future__ import annotations

import planted_cases
import planted_more
import planted_quantized
from planted import CASES

FAMILIES = (planted_cases, planted_more, planted_quantized)

__all__ = ["CASES", "FAMILIES"]
