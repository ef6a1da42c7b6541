"""Timing: latency, memory and profiles of models in onnxruntime."""

__all__ = [
    "benchmark",
    "costs",
    "kept",
    "kernels",
    "profile",
    "race",
    "setup",
]
