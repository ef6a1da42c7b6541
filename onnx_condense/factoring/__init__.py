"""Other bases: weights that become pairs of factors, streams and products of data that are turned."""

__all__ = ["exact", "products", "rotation", "spectrum", "streams", "tokens", "weights"]
