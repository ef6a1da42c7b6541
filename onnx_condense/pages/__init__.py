"""Pages: a document of a run as one HTML file that fetches nothing."""

__all__ = ["page"]
