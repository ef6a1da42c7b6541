"""Proving: two models side by side in onnxruntime, and scores."""

__all__ = ["compare", "scorers", "surgery"]
