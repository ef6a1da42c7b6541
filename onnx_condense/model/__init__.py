"""Models: files, messages, graphs, sessions of onnxruntime, and inputs to run them on."""

__all__ = [
    "draws",
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
]
