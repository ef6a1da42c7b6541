"""The command line: arguments to options, reports to the terminal."""

__all__ = ["main"]
