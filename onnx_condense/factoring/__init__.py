"""Weights that become pairs of factors: which may, in which basis, and at which rank nothing is lost."""

__all__ = ["exact", "spectrum", "tokens", "weights"]
