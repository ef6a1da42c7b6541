"""Tracing: from a graph to its dependency groups."""
