"""Condensed models and PyTorch (pytorch/), under the name of the public interface. Needs the extra `torch`."""

from onnx_condense.pytorch.fitting import Samples, cross_entropy, distillation, fit, squared
from onnx_condense.pytorch.graph import Graph, to_module
from onnx_condense.pytorch.names import state_of, written_back
from onnx_condense.pytorch.shrinking import load_state_dict, shrink
from onnx_condense.pytorch.strategy import Strategy

__all__ = [
    "Graph",
    "Samples",
    "Strategy",
    "cross_entropy",
    "distillation",
    "fit",
    "load_state_dict",
    "shrink",
    "squared",
    "state_of",
    "to_module",
    "written_back",
]
