"""Data as people have them: files, folders and functions that become arrays by input name."""

__all__ = ["archives", "reading", "sources"]
