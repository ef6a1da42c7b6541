"""Forms: what a model is brought into before it is traced, and brought back from after it was written."""

__all__ = ["batchnorm", "bodies", "functions", "fused", "integers", "shuffles", "stack"]
