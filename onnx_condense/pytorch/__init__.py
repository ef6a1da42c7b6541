"""Between a condensed file and PyTorch: modules take its shapes and weights, and give them back."""

__all__ = ["fitting", "graph", "names", "shrinking", "strategy"]
