"""A module takes the shapes and weights of its condensed file, in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx

from onnx_condense.arrays import Array
from onnx_condense.errors import InputError, VerificationError, first_line
from onnx_condense.model.files import Model, load
from onnx_condense.model.inputs import draw_feeds, input_specs
from onnx_condense.model.runtime import run, session
from onnx_condense.pytorch.names import SHRUNKEN, STATISTICS, State, state_of
from onnx_condense.pytorch.need import torch

EQUAL = 1e-5
"""How far the outputs of a module and of its file may lie apart, relative to their size."""

PRODUCTS, BASIS = ("Conv", "Gemm", "MatMul"), "_basis"
"""What multiplies with the second of two factors, and what stands in its name."""

nn = torch.nn


def shrink(
    module: torch.nn.Module, condensed: Model, *, original: Model | None = None, check: bool = True
) -> torch.nn.Module:
    """Shrinks a module in place to its condensed file, and returns it.

    Parameters and buffers are matched to initializers by name; layers take the new widths (`in_channels`,
    `out_channels`, `groups`, `num_features` and so on), and a bias where the file has one and the layer had none.

    Args:
        module: whose export was condensed. It must have the names of the file: export with BatchNormalization kept
            (`training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False`).
        condensed: the condensed model or its path.
        original: the model before; needed where an exporter renamed weights (see `state_of`).
        check: whether the module is run beside the file, in evaluation mode, on generated inputs.

    Raises:
        InputError: a tensor has no counterpart, a layer is of a kind that is not known, or two layers in the file.
        VerificationError: the module cannot be run with the new widths, or gives something else than the file.
    """
    proto = load(condensed, hold=False).proto
    state = state_of(proto, module, original)
    factored = _factored(proto, state, set(module.state_dict()))
    if factored is not None:
        raise InputError(f"{factored} is a pair of factors in the file, two layers: condense with --widths-only")
    _resize(module, state.arrays, state.groups, "the condensed file")
    SHRUNKEN[module] = state
    if check:
        _check(module, proto)
    return module


def _factored(condensed: onnx.ModelProto, state: State, own: Collection[str]) -> str | None:
    """The layer whose weight is a pair of factors in a file: a basis follows that is none of a module's own tensors."""
    names = {initializer: name for name, initializer in state.initializers.items()}
    paths = {
        output: names[node.input[1]].removesuffix(".weight")
        for node in condensed.graph.node
        if len(node.input) > 1 and names.get(node.input[1], "").endswith(".weight")
        for output in node.output
    }
    for node in condensed.graph.node:
        held = [names[source] for source in node.input[:2] if source in names]
        made = [paths[source] for source in node.input[:2] if source in paths]
        if node.op_type in PRODUCTS and held and made and BASIS in held[0] and held[0] not in own:
            return made[0]
    return None


def load_state_dict(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Loads the state dict of a shrunken module into one of the original widths, in place, and returns it.

    Raises InputError when a tensor has no counterpart, or a layer is of a kind that is not known.
    """
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
    _resize(module, arrays, {}, "the state dict")
    return module


def _resize(module: torch.nn.Module, arrays: Mapping[str, Array], groups: Mapping[str, int], where: str) -> None:
    for path, layer in module.named_modules():
        own = {**layer._parameters, **layer._buffers}
        names = {last: f"{path}.{last}" if path else last for last in {*own, "bias"}}
        new = {last: arrays[name] for last, name in names.items() if name in arrays}
        for last, tensor in own.items():
            if tensor is not None and last not in new and last not in STATISTICS and last not in _unsaved(layer):
                raise InputError(
                    f"{names[last]} is not in {where}: export with the module's own names and BatchNormalization kept "
                    "(training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False), or pass original="
                )
        if new:
            _fit(path, layer, new, groups.get(path))


def _unsaved(layer: torch.nn.Module) -> set[str]:
    return set(layer._non_persistent_buffers_set)


def _fit(path: str, layer: torch.nn.Module, new: Mapping[str, Array], groups: int | None) -> None:
    """Puts tensors into one layer, and its numbers right."""
    changed = any(tuple(value.shape) != _shape(layer, last) for last, value in new.items())
    if changed:
        rule = next((rule for kind, rule in RULES.items() if isinstance(layer, kind)), None)
        if rule is None:
            raise InputError(
                f"{path} ({type(layer).__name__}) is smaller in the file, and how to shrink such a layer is not known: "
                f"condense with --exclude, or shrink it by hand"
            )
        rule(layer, {last: tuple(value.shape) for last, value in new.items()}, groups)
    for last, value in new.items():
        _put(layer, last, value)


def _shape(layer: torch.nn.Module, last: str) -> tuple[int, ...] | None:
    tensor = getattr(layer, last, None)
    return None if tensor is None else tuple(tensor.shape)


def _put(layer: torch.nn.Module, last: str, value: Array) -> None:
    old = getattr(layer, last, None)
    like = old if old is not None else layer.weight
    assert isinstance(like, torch.Tensor)
    tensor = torch.from_numpy(np.array(value)).to(dtype=like.dtype, device=like.device)
    if isinstance(like, nn.Parameter):
        setattr(layer, last, nn.Parameter(tensor, requires_grad=like.requires_grad))
    else:
        setattr(layer, last, tensor)


Sizes = Mapping[str, tuple[int, ...]]


def _convolution(layer: Any, sizes: Sizes, groups: int | None) -> None:
    weight = sizes["weight"]
    first, second = (1, 0) if layer.transposed else (0, 1)
    if groups is None:
        is_depthwise = layer.groups > 1 and layer.groups == layer.in_channels
        groups = weight[0] if is_depthwise and not layer.transposed else layer.groups
    layer.groups = groups
    layer.out_channels = weight[first] * (groups if layer.transposed else 1)
    layer.in_channels = weight[second] * (1 if layer.transposed else groups)


def _linear(layer: Any, sizes: Sizes, groups: int | None) -> None:
    layer.out_features, layer.in_features = sizes["weight"]


def _features(layer: Any, sizes: Sizes, groups: int | None) -> None:
    layer.num_features = max(size[0] for size in sizes.values() if size)


def _normalized(layer: Any, sizes: Sizes, groups: int | None) -> None:
    layer.normalized_shape = sizes["weight"]


def _channels(layer: Any, sizes: Sizes, groups: int | None) -> None:
    layer.num_channels = sizes["weight"][0]


def _table(layer: Any, sizes: Sizes, groups: int | None) -> None:
    layer.num_embeddings, layer.embedding_dim = sizes["weight"]


def _slopes(layer: Any, sizes: Sizes, groups: int | None) -> None:
    layer.num_parameters = sizes["weight"][0]


RULES: Mapping[type | tuple[type, ...], Callable[[Any, Sizes, int | None], None]] = {
    nn.modules.conv._ConvNd: _convolution,
    nn.Linear: _linear,
    (nn.modules.batchnorm._NormBase,): _features,
    (nn.LayerNorm, nn.RMSNorm): _normalized,
    nn.GroupNorm: _channels,
    nn.Embedding: _table,
    nn.PReLU: _slopes,
}
"""Kind of layer -> what puts its numbers right for the shapes of its tensors, by their names in the layer."""


def _check(module: torch.nn.Module, proto: onnx.ModelProto) -> None:
    """Runs both on generated inputs. Raises VerificationError."""
    feed = draw_feeds(proto, input_specs(proto), None, {}, 0).feeds[0]
    wanted = run(session(proto), None, feed)
    was_training, last = module.training, _Last(module)
    module.eval()
    try:
        with torch.no_grad():
            got = module(*(torch.from_numpy(np.array(value)) for value in feed.values()))
    except (RuntimeError, ValueError, TypeError) as error:
        raise VerificationError(
            f"the module cannot be run with the new widths, after {last.seen or 'its start'}: {first_line(error)} "
            "(does its forward hold a width as a number, as in view(-1, 512)? take it from the tensor)"
        ) from error
    finally:
        last.remove()
        module.train(was_training)
    outputs = got if isinstance(got, tuple | list) else [got]
    for name, a, b in zip((o.name for o in proto.graph.output), wanted, outputs, strict=False):
        apart = float(np.linalg.norm(a - b.numpy()) / max(float(np.linalg.norm(a)), 1e-30))
        if not apart <= EQUAL:
            raise VerificationError(
                f"the module's output is not the file's {name} (relative L2 {apart:.2g}): its forward does something "
                "else than the file, or the file gained operators that it lacks"
            )


class _Last:
    """Remembers which layer ran last, with the shape that it gave."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.seen = ""
        self._hooks = [layer.register_forward_hook(self._hook(path)) for path, layer in module.named_modules() if path]

    def _hook(self, path: str) -> Callable[[Any, Any, Any], None]:
        def remember(_: Any, __: Any, output: Any) -> None:
            shape = f", which gave {list(output.shape)}" if isinstance(output, torch.Tensor) else ""
            self.seen = f"{path}{shape}"

        return remember

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
