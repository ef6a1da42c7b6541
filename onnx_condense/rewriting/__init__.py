"""Rewriting: from a twin to a model; nothing else makes a graph smaller."""

__all__ = ["checks", "kept", "sizes", "writer"]
