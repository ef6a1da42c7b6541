"""Planning: how wide each group is to be."""
