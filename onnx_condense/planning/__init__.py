"""Planning: how wide each group is to be."""

__all__ = [
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
    "strategies",
    "target",
    "thresholds",
    "tying",
]
