"""Rewriting: from a twin to a model; the only mutator."""
