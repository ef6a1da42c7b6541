"""Reports: what a run tells, and how its parts are made."""

__all__ = ["cosines", "difference", "formats", "making", "operators", "values"]
