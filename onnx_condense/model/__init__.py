"""Models: files, messages, graphs, sessions of onnxruntime, and inputs to run them on."""
