"""The paper's automatic condensation reduction: merge, train, test, and go on until little is left."""
