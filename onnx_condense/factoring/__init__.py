"""Other bases: weights that become pairs of factors, streams that are turned, and what neither loses."""

__all__ = ["exact", "rotation", "spectrum", "streams", "tokens", "weights"]
