"""Reports: what a run tells, and how its parts are made."""

__all__ = ["cosines", "formats", "making", "values"]
