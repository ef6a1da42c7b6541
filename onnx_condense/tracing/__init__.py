"""Tracing: from a graph to its dependency groups."""

__all__ = ["balance", "labels", "shuffles", "trace", "tracer"]
