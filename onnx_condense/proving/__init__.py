"""Proving: two models side by side in onnxruntime, and scores."""
