"""Rewriting: from a twin to a model; nothing else makes a graph smaller."""

__all__ = ["checks", "drafting", "kept", "shapes", "sizes", "writer"]
