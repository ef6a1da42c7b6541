"""Which places of its input a convolution multiplies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Ints
from onnx_condense.model.runtime import run, session
from onnx_condense.operators.nodes import ungrouped


class Windows:
    """Which places of its input a convolution multiplies at each output place: onnxruntime itself says so.

    A convolution of one channel with the same attributes, whose kernels pick one tap each, is fed the places' numbers.
    """

    def __init__(self, model: onnx.ModelProto, index: int, kernel: Sequence[int]) -> None:
        """`index`: of the Conv among the model's nodes. `kernel`: its spatial sizes."""
        self._node, self._kernel = model.graph.node[index], tuple(kernel)
        self._opsets = list(model.opset_import)
        self._places: dict[tuple[int, ...], Ints] = {}

    def places(self, sizes: tuple[int, ...]) -> Ints:
        """[output places, taps]: numbers of input places, all axes flattened; -1 beyond the border.

        `sizes`: of the input's spatial axes, whose product is below 2**24 (float32 counts that far).
        """
        if sizes not in self._places:
            numbers = np.arange(1, np.prod(sizes) + 1, dtype=np.float32).reshape(1, 1, *sizes)
            (found,) = run(session(self._picking()), None, {"x": numbers})
            self._places[sizes] = found.reshape(found.shape[1], -1).T.astype(np.int64) - 1
        return self._places[sizes]

    def _picking(self) -> onnx.ModelProto:
        taps = int(np.prod(self._kernel))
        picks = np.eye(taps, dtype=np.float32).reshape(taps, 1, *self._kernel)
        graph = helper.make_graph(
            [ungrouped(self._node, ["x", "w"], ["y"])],
            "windows",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None] * (2 + len(self._kernel)))],
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(picks, "w")],
        )
        return onnx.ModelProto(ir_version=8, graph=graph, opset_import=self._opsets)
