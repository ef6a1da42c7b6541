"""Models: files, messages, graphs, sessions of onnxruntime, and inputs to run them on."""

__all__ = [
    "files",
    "inference",
    "inputs",
    "names",
    "outputs",
    "parts",
    "protos",
    "rebuilt",
    "runtime",
    "storage",
    "surgeon",
    "variation",
]
