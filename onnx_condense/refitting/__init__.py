"""Refitting: consumers that lost channels, and producers, get the weights that lose least."""
