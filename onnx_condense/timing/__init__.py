"""Timing: latency, memory and profiles of models in onnxruntime."""
