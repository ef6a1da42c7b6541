"""torch, which is an extra."""

from __future__ import annotations

from typing import TypeAlias

from onnx_condense.errors import UsageError

try:
    import torch
except ImportError as error:
    raise UsageError(
        "onnx_condense.torch needs PyTorch: pip install torch (on a CPU, the CPU build of it is enough)"
    ) from error

Tensor: TypeAlias = torch.Tensor
Module: TypeAlias = torch.nn.Module

__all__ = ["Module", "Tensor", "torch"]
