"""Planning: how wide each group is to be."""

__all__ = [
    "again",
    "alignment",
    "blame",
    "candidates",
    "fewer_heads",
    "hardware",
    "heads",
    "latencies",
    "never_slower",
    "no_larger",
    "planned",
    "replay",
    "rotating",
    "run",
    "selection",
    "shortening",
    "strategies",
    "target",
    "thresholds",
    "tying",
]
