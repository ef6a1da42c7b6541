"""Other bases: weights that become pairs of factors, streams and products of data that are turned, or shorter."""

__all__ = ["bands", "exact", "products", "residual", "rotation", "shorter", "spectrum", "streams", "tokens", "weights"]
