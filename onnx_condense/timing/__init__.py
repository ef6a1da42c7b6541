"""Timing: latency, memory and profiles of models in onnxruntime."""

__all__ = ["benchmark", "profile", "race", "setup"]
