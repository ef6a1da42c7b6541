"""Timing: latency, memory and profiles of models in onnxruntime."""

__all__ = ["benchmark", "costs", "fusions", "kept", "kernels", "profile", "race", "setup", "yardstick"]
