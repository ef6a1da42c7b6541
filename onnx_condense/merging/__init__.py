"""Merging: which channels are alike, which stay, and what is folded where. Numpy only."""
