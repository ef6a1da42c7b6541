"""Algebra: what the value of a channel is, as an expression over weights, and what follows from it. Numpy only."""

__all__ = ["constants", "directions", "numbers", "operations", "relations", "signals", "stages"]
