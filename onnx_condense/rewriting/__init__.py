"""Rewriting: from a twin to a model; the only mutator."""

__all__ = ["checks", "kept", "sizes", "writer"]
