"""Merging: which channels are alike, which stay, and what is folded where. Numpy only."""

__all__ = [
    "deciding",
    "evidence",
    "factors",
    "judging",
    "measured",
    "methods",
    "mixing",
    "paths",
    "plan",
    "streams",
    "twin",
    "weights",
    "widths",
]
