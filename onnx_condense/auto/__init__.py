"""The paper's automatic condensation reduction: merge, train, test, and go on until little is left."""

__all__ = ["folder", "machine", "run", "settings", "state", "status", "trainer"]
