"""Proving: two models side by side in onnxruntime, what outputs lose, and scores."""

__all__ = ["compare", "losses", "scorers", "surgery"]
