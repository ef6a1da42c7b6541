"""Between a condensed file and PyTorch: modules take its shapes and weights, and give them back."""

from onnx_condense.extras import need

need("onnx_condense.torch", "torch", ["torch"])

__all__ = ["fitting", "graph", "names", "shrinking", "strategy"]
