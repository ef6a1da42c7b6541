"""Models: files, messages, graphs, sessions of onnxruntime, and inputs to run them on."""

__all__ = [
    "archives",
    "blame",
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
