"""ONNX operators as torch functions: those of classifiers and regressors, anything else is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.errors import InputError
from onnx_condense.pytorch.need import Tensor, torch

F = torch.nn.functional


@dataclass(frozen=True)
class Call:
    """One execution of a node: its attributes, its inputs (None where left out), whether the module trains."""

    name: str
    kind: str
    attributes: Mapping[str, Any]
    inputs: Sequence[Tensor | None]
    outputs: int
    opset: int
    training: bool

    def __getitem__(self, index: int) -> Tensor:
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise InputError(f"{self.name} ({self.kind}) has no input {index}")
        return value

    def optional(self, index: int) -> Tensor | None:
        """An input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; text as str."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def ints(self, name: str, index: int) -> list[int] | None:
        """Whole numbers that old opsets keep in an attribute and new ones in an input."""
        given = self.optional(index)
        return self.attributes.get(name) if given is None else [int(v) for v in given.reshape(-1)]

    def refuse(self, what: str) -> InputError:
        """An error that names the node."""
        return InputError(f"{self.name} ({self.kind}): {what} is not supported; pass the module itself")


Operator = Callable[[Call], Any]


def _padded(call: Call, x: Tensor, value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The input with paddings that differ at both ends put on, and what is left to pad."""
    count = x.ndim - 2
    pads = _same(call, x) if call.attribute("auto_pad", "NOTSET").startswith("SAME") else call.attribute("pads")
    start, end = (pads[:count], pads[count:]) if pads else ([0] * count, [0] * count)
    if start == end:
        return x, start
    flat = [p for pair in reversed(list(zip(start, end, strict=True))) for p in pair]
    return F.pad(x, flat, value=value), [0] * count


def _same(call: Call, x: Tensor) -> list[int]:
    """The paddings, starts and then ends, that leave ceil(size / stride) positions."""
    count, a = x.ndim - 2, call.attribute
    kernel = a("kernel_shape") or list(call[1].shape[2:])
    steps, apart = a("strides") or [1] * count, a("dilations") or [1] * count
    both = [
        max((-(-size // step) - 1) * step + (k - 1) * d + 1 - size, 0)
        for size, step, k, d in zip(x.shape[2:], steps, kernel, apart, strict=True)
    ]
    small, large = [p // 2 for p in both], [p - p // 2 for p in both]
    return small + large if a("auto_pad") == "SAME_UPPER" else large + small


def _conv(call: Call) -> Tensor:
    x, pads = _padded(call, call[0])
    count, a = x.ndim - 2, call.attribute
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[count]
    ones = [1] * count
    return run(x, call[1], call.optional(2), a("strides") or ones, pads, a("dilations") or ones, a("group", 1))


def _conv_transpose(call: Call) -> Tensor:
    x, a = call[0], call.attribute
    count = x.ndim - 2
    pads = list(a("pads") or [0] * (2 * count))
    if pads[:count] != pads[count:] or a("auto_pad", "NOTSET") != "NOTSET" or a("output_shape"):
        raise call.refuse("uneven padding")
    run: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[count]
    ones = [1] * count
    extra = a("output_padding") or [0] * count
    steps, apart = a("strides") or ones, a("dilations") or ones
    found: Tensor = run(x, call[1], call.optional(2), steps, pads[:count], extra, a("group", 1), apart)
    return found


def _gemm(call: Call) -> Tensor:
    a, b, c = call[0], call[1], call.optional(2)
    a = a.T if call.attribute("transA", 0) else a
    b = b.T if call.attribute("transB", 0) else b
    product = call.attribute("alpha", 1.0) * (a @ b)
    return product if c is None else product + call.attribute("beta", 1.0) * c


def _batch_normalization(call: Call) -> Tensor:
    momentum = 1 - call.attribute("momentum", 0.9)
    scale, shift, mean, variance = call[1], call[2], call[3], call[4]
    return F.batch_norm(call[0], mean, variance, scale, shift, call.training, momentum, call.attribute("epsilon", 1e-5))


def _layer_normalization(call: Call) -> Tensor:
    x, axis = call[0], call.attribute("axis", -1)
    return F.layer_norm(x, x.shape[axis:], call[1], call.optional(2), call.attribute("epsilon", 1e-5))


def _max_pool(call: Call) -> Tensor:
    if call.outputs > 1:
        raise call.refuse("an output of indices")
    x, pads = _padded(call, call[0], float("-inf"))
    count, a = x.ndim - 2, call.attribute
    run: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[count]
    ones = [1] * count
    found: Tensor = run(
        x, a("kernel_shape"), a("strides") or ones, pads, a("dilations") or ones, ceil_mode=bool(a("ceil_mode", 0))
    )
    return found


def _average_pool(call: Call) -> Tensor:
    counted = bool(call.attribute("count_include_pad", 0))
    x, pads = _padded(call, call[0])
    count, a = x.ndim - 2, call.attribute
    if x is not call[0] and not counted:
        raise call.refuse("uneven padding")
    run: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[count]
    found: Tensor = run(
        x, a("kernel_shape"), a("strides") or [1] * count, pads, bool(a("ceil_mode", 0)), count_include_pad=counted
    )
    return found


def _reshape(call: Call) -> Tensor:
    sizes = call.ints("shape", 1) or []
    if not call.attribute("allowzero", 0):
        sizes = [call[0].shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return call[0].reshape(sizes)


def _flatten(call: Call) -> Tensor:
    axis = call.attribute("axis", 1) % (call[0].ndim + 1)
    return call[0].reshape(int(torch.tensor(call[0].shape[:axis]).prod()) if axis else 1, -1)


def _squeeze(call: Call) -> Tensor:
    axes = call.ints("axes", 1)
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    axes, x = call.ints("axes", 1) or [], call[0]
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _reduced(run: Callable[..., Tensor]) -> Operator:
    def reduce(call: Call) -> Tensor:
        axes = call.ints("axes", 1) or list(range(call[0].ndim))
        return run(call[0], tuple(axes), keepdim=bool(call.attribute("keepdims", 1)))

    return reduce


def _extreme(run: Callable[..., Tensor]) -> Operator:
    return _reduced(lambda x, axes, keepdim: run(x, dim=axes, keepdim=keepdim))


def _clip(call: Call) -> Tensor:
    low, high = call.optional(1), call.optional(2)
    low = call.attribute("min") if low is None else low
    high = call.attribute("max") if high is None else high
    return call[0].clamp(low, high)


def _prelu(call: Call) -> Tensor:
    return torch.where(call[0] < 0, call[0] * call[1], call[0])


def _softmax(call: Call) -> Tensor:
    axis = call.attribute("axis", -1 if call.opset >= 13 else 1)
    if call.opset < 13 and axis % call[0].ndim != call[0].ndim - 1:
        raise call.refuse("a softmax over several axes")
    return (F.log_softmax if call.kind == "LogSoftmax" else F.softmax)(call[0], axis)


def _pad(call: Call) -> Tensor:
    x, mode = call[0], call.attribute("mode", "constant")
    pads = call.ints("pads", 1) or []
    value = call.optional(2)
    if mode != "constant" or call.optional(3) is not None:
        raise call.refuse(f"mode {mode} or axes")
    flat = [p for i in reversed(range(x.ndim)) for p in (pads[i], pads[i + x.ndim])]
    return F.pad(x, flat, value=call.attribute("value", 0.0) if value is None else float(value))


def _gather(call: Call) -> Tensor:
    axis, index = call.attribute("axis", 0) % call[0].ndim, call[1].long()
    found = call[0].index_select(axis, index.reshape(-1) % call[0].shape[axis])
    return found.reshape((*call[0].shape[:axis], *index.shape, *call[0].shape[axis + 1 :]))


def _slice(call: Call) -> Tensor:
    starts, ends = call.ints("starts", 1) or [], call.ints("ends", 2) or []
    axes, steps = call.ints("axes", 3) or list(range(len(starts))), call.ints("steps", 4) or [1] * len(starts)
    x = call[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts: list[slice | Tensor] = [slice(None)] * x.ndim
        parts[axis % x.ndim] = slice(start, end, step)
        if step < 0:  # torch has no such views
            taken = range(*slice(start, end, step).indices(x.shape[axis]))
            parts[axis % x.ndim] = torch.tensor(taken, dtype=torch.int64, device=x.device)
        x = x[tuple(parts)]
    return x


def _split(call: Call) -> tuple[Tensor, ...]:
    axis, sizes = call.attribute("axis", 0), call.ints("split", 1)
    length = call[0].shape[axis]
    whole = -(-length // call.outputs)
    return call[0].split(sizes if sizes is not None else whole, axis)


def _constant(call: Call) -> Tensor:
    if "value" in call.attributes:
        return torch.from_numpy(numpy_helper.to_array(call.attributes["value"]).copy())
    kinds = ("value_float", "value_int", "value_floats", "value_ints")
    found = [call.attributes[kind] for kind in kinds if kind in call.attributes]
    if not found:
        raise call.refuse("a constant of this kind")
    return torch.tensor(found[0])


def _cast(call: Call) -> Tensor:
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(call.attribute("to")))
    return call[0].to(torch.from_numpy(np.zeros((), kind)).dtype)


def _constant_of_shape(call: Call) -> Tensor:
    value = call.attribute("value")
    number = torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value).copy())
    return number.reshape(()).expand([int(v) for v in call[0]])


def _dropout(call: Call) -> Tensor:
    ratio = call.optional(1)
    return F.dropout(call[0], call.attribute("ratio", 0.5) if ratio is None else float(ratio), call.training)


def _gelu(call: Call) -> Tensor:
    return F.gelu(call[0], approximate=call.attribute("approximate", "none"))


def _hard_sigmoid(call: Call) -> Tensor:
    return (call.attribute("alpha", 0.2) * call[0] + call.attribute("beta", 0.5)).clamp(0, 1)


def _expand(call: Call) -> Tensor:
    return call[0] * torch.ones([int(v) for v in call[1]], dtype=call[0].dtype)


def _depth_to_space(call: Call) -> Tensor:
    (n, c, h, w), size = call[0].shape, call.attribute("blocksize")
    inner = c // size**2
    if call.attribute("mode", "DCR") == "CRD":
        blocks = call[0].reshape(n, inner, size, size, h, w)
    else:
        blocks = call[0].reshape(n, size, size, inner, h, w).permute(0, 3, 1, 2, 4, 5)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(n, inner, h * size, w * size)


def _instance_normalization(call: Call) -> Tensor:
    return F.instance_norm(call[0], weight=call[1], bias=call[2], eps=call.attribute("epsilon", 1e-5))


def _one(run: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: run(call[0])


def _two(run: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: run(call[0], call[1])


OPERATORS: Mapping[str, Operator] = {
    "Abs": _one(torch.abs),
    "Add": _two(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda call: torch.cat([x for x in call.inputs if x is not None], call.attribute("axis")),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _one(torch.cos),
    "DepthToSpace": _depth_to_space,
    "Div": _two(lambda a, b: torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")),
    "Dropout": _dropout,
    "Elu": lambda call: F.elu(call[0], call.attribute("alpha", 1.0)),
    "Equal": _two(torch.eq),
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _one(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _one(lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)),
    "Greater": _two(torch.gt),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(F.hardswish),
    "Identity": _one(lambda x: x),
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda call: F.leaky_relu(call[0], call.attribute("alpha", 0.01)),
    "Less": _two(torch.lt),
    "Log": _one(torch.log),
    "LogSoftmax": _softmax,
    "MatMul": _two(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _two(torch.mul),
    "Neg": _one(torch.neg),
    "Not": _one(torch.logical_not),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _two(torch.pow),
    "Reciprocal": _one(torch.reciprocal),
    "ReduceMax": _extreme(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _extreme(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _one(F.relu),
    "Reshape": _reshape,
    "Selu": _one(F.selu),
    "Shape": _one(lambda x: torch.tensor(x.shape)),
    "Sigmoid": _one(torch.sigmoid),
    "Sin": _one(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _one(F.softplus),
    "Split": _split,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _two(torch.sub),
    "Sum": lambda call: torch.stack(torch.broadcast_tensors(*call.inputs)).sum(0),
    "Tanh": _one(torch.tanh),
    "Tile": lambda call: call[0].repeat([int(v) for v in call[1]]),
    "Transpose": lambda call: call[0].permute(call.attribute("perm") or list(reversed(range(call[0].ndim)))),
    "Unsqueeze": _unsqueeze,
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
}
"""Name of an operator -> what it does in torch."""

STATISTICS: Mapping[str, tuple[int, ...]] = {"BatchNormalization": (3, 4)}
"""Name of an operator -> inputs that training updates by itself, and no gradient reaches."""
