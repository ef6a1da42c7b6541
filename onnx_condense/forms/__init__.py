"""Forms: what a model is brought into before it is traced; some of them it leaves again after it was written."""

__all__ = [
    "bases",
    "batchnorm",
    "blocks",
    "bodies",
    "branches",
    "functions",
    "fused",
    "integers",
    "members",
    "shuffles",
    "slopes",
    "stack",
    "tied",
]
