"""Parts of models that are run to see what lies inside them."""

from __future__ import annotations

import numpy as np
from onnx import helper
from support.planted.net import Net

from onnx_condense.model.parts import MANY, Probe, observe


def test_a_part_of_a_file_that_names_its_weights_among_the_inputs() -> None:
    """So files were before IR version 4; a part that does not read a weight has it with its default, or not at all."""
    net = Net()
    hidden = net.node("Relu", net.dense("first", net.input("n", 3), np.eye(4, 3)))
    model = net.build(net.dense("second", hidden, np.ones((2, 4))))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    (found,) = observe(model, [hidden], [{"x": np.ones((1, 3), np.float32)}])
    np.testing.assert_array_equal(found[hidden], [[1, 1, 1, 0]])


def test_parts_of_many_outputs_run_as_they_stand() -> None:
    """onnxruntime's optimizations take the square of the number of outputs: half of what 14,000 nodes took."""
    net = Net()
    names = [net.input("n", 3)]
    for _ in range(MANY + 1):
        names.append(net.node("Relu", names[-1]))
    model = net.build(names[-1])
    assert Probe.of(model, names[1:-1]).optimize
    assert not Probe.of(model, names[1:]).optimize
