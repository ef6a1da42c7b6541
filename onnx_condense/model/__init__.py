"""Models: files, messages, graphs, sessions of onnxruntime, and inputs to run them on."""

__all__ = [
    "apart",
    "blame",
    "blas",
    "draws",
    "files",
    "held",
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
    "trial",
    "variation",
    "wire",
]
