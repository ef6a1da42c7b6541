"""Planted cases of the rows that change shapes, normalize, scatter or look up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.planted.cases import (
    ABSOLUTE,
    ALWAYS,
    EXACT,
    FULL,
    HOMOGENEOUS,
    LINEAR,
    UNSHIFTED,
    PlantedMiddle,
    apply,
    case,
    conv_case,
    copies,
    planted_columns,
    planted_rows,
    spatial_case,
)
from support.planted.net import Net

# --------------------------------------------------------------------------------------------- transposed


@case("ConvTranspose", HOMOGENEOUS)
def _conv_transpose(relation: str) -> onnx.ModelProto:
    """It makes the channels, and another one reads them."""
    net = Net()
    rows, bias = planted_rows(net, relation, 3, 3, 3)
    inputs = net.constant(rows.swapaxes(0, 1)), net.constant(bias)
    data = net.input("batch", 3, 5, 5)
    hidden = net.node("ConvTranspose", data, *inputs, name="producer", strides=[2, 2], output_padding=[1, 1])
    hidden = net.node("Relu", hidden)
    columns = planted_columns(net, relation, 4, 2, 2).swapaxes(0, 1)
    made = net.node("ConvTranspose", hidden, net.constant(columns), name="consumer", strides=[2, 2])
    return net.build(made)


@case("ConvTranspose", UNSHIFTED, "linear consumer")
def _conv_transpose_linear(relation: str) -> onnx.ModelProto:
    """A constant is not the same at the border, so that a shifted channel stays."""
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 5, 5), *planted_rows(net, relation, 3, 3, 3))
    columns = planted_columns(net, relation, 4, 3, 3).swapaxes(0, 1)
    inputs = net.constant(columns), net.constant(net.normal(4))
    return net.build(net.node("ConvTranspose", hidden, *inputs, name="consumer"))


@case("ConvTranspose", UNSHIFTED, "depthwise", layers={"producer": (FULL, EXACT), "depthwise": (FULL, EXACT)})
def _conv_transpose_depthwise(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 5, 5), *planted_rows(net, relation, 3, 3, 3))
    taps = copies("equal" if relation in ("near", "shifted") else relation, net.normal(FULL, 1, 3, 3))
    taps = net.constant(taps)
    hidden = net.node("ConvTranspose", hidden, taps, name="depthwise", group=FULL, strides=[2, 2])
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 1, 1), net.normal(4)))


# ------------------------------------------------------------------------------------------------ resizing


def _sizes(*, derived: bool) -> PlantedMiddle:
    """To twice the height and width: sizes that are constants, or follow from the shape of the data."""

    def middle(net: Net, data: str, relation: str) -> str:
        if derived:
            start = net.node("Slice", net.node("Shape", data), net.ints(0), net.ints(2))
            sizes = net.node("Concat", start, net.ints(12, 12), axis=0)
        else:
            sizes = net.ints(8, FULL, 12, 12)
        return net.node("Resize", data, "", "", sizes, mode="nearest")

    return middle


def _resizing() -> None:
    scales = [1.0, 1.0, 2.0, 2.0]

    def scaled(mode: str, **attributes: str) -> PlantedMiddle:
        return lambda net, data, _: net.node(
            "Resize", data, "", net.constant(np.array(scales)), mode=mode, **attributes
        )

    conv_case("Resize", LINEAR, scaled("nearest"), side=3)
    conv_case("Resize", LINEAR, scaled("linear", coordinate_transformation_mode="asymmetric"), "linear", side=3)
    conv_case("Resize", UNSHIFTED, scaled("cubic"), "cubic", side=3)
    conv_case(
        "Resize",
        frozenset(),
        lambda n, x, r: n.node(
            "Resize",
            x,
            n.constant(np.array([0, 0, 0, 0, 1, 1, 1.5, 1.5])),
            n.constant(np.array(scales)),
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
        ),
        "cropped",
    )
    conv_case("Resize", LINEAR, _sizes(derived=False), "sizes", side=3)
    conv_case("Resize", LINEAR, _sizes(derived=True), "derived sizes", side=3)
    axes = {"axes": [2, 3], "mode": "linear"}
    conv_case("Resize", LINEAR, lambda n, x, _: n.node("Resize", x, "", "", n.ints(9, 7), **axes), "axes", opset=18)
    conv_case("Resize", LINEAR, lambda n, x, _: n.node("Resize", x, n.constant(np.array(scales))), "old", opset=10)
    conv_case("Upsample", LINEAR, lambda n, x, _: n.node("Upsample", x, n.constant(np.array(scales))), opset=9)
    conv_case("Upsample", LINEAR, apply("Upsample", scales=scales, mode="linear"), "attribute", opset=8)


# ----------------------------------------------------------------------------------------------- expanding


def _expanded(shape: Sequence[int], *, pooled: bool = True, derived: bool = False) -> PlantedMiddle:
    def middle(net: Net, data: str, relation: str) -> str:
        target = net.ints(*shape)
        if derived:
            start = net.node("Slice", net.node("Shape", data), net.ints(0), net.ints(2))
            target = net.node("Concat", start, net.ints(*shape[2:]), axis=0)
        return net.node("Expand", net.node("GlobalAveragePool", data) if pooled else data, target)

    return middle


def _moving() -> None:
    conv_case("Expand", LINEAR, _expanded((8, FULL, 4, 4)))
    conv_case("Expand", LINEAR, _expanded((1, 1, 4, 4)), "with ones")
    conv_case("Expand", LINEAR, _expanded((FULL, 4, 4)), "of lower rank")
    conv_case("Expand", LINEAR, _expanded((8, FULL, 4, 4), derived=True), "derived")
    pooled = apply("GlobalAveragePool")
    conv_case("Tile", LINEAR, lambda n, x, r: n.node("Tile", pooled(n, x, r), n.ints(1, 1, 3, 2)), "spatial")
    conv_case(
        "SpaceToDepth",
        LINEAR,
        lambda n, x, r: n.node("DepthToSpace", n.node("SpaceToDepth", x, blocksize=2), blocksize=2),
        "and back",
    )


@case("Tile", LINEAR, "channels")
def _tile(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    columns = np.hstack([planted_columns(net, relation, 4) for _ in range(2)])
    return net.build(net.dense("consumer", net.node("Tile", hidden, net.ints(1, 2)), columns, net.normal(4)))


@case("SpaceToDepth", HOMOGENEOUS)
def _space_to_depth(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3)))
    hidden = net.node("SpaceToDepth", hidden, blocksize=2)
    columns = np.concatenate([planted_columns(net, relation, 4, 1, 1) for _ in range(4)], axis=1)
    return net.build(net.conv("consumer", hidden, columns, net.normal(4)))


def _pixel_shuffle(mode: str) -> None:
    @case("DepthToSpace", LINEAR, mode, layers={"producer": (4 * FULL, 4 * EXACT)})
    def build(relation: str) -> onnx.ModelProto:
        """The four channels of a block are one unit."""
        net = Net()
        rows, biases = zip(*(planted_rows(net, relation, 3, 3, 3) for _ in range(4)), strict=True)
        along = 0 if mode == "DCR" else 1
        shape = (4 * FULL, 3, 3, 3)
        kernels, bias = np.stack(rows, along).reshape(shape), np.stack(biases, along).reshape(-1)
        hidden = net.conv("producer", net.input("batch", 3, 6, 6), kernels, bias)
        hidden = net.node("DepthToSpace", hidden, blocksize=2, mode=mode)
        return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 3, 3), net.normal(4)))


# --------------------------------------------------------------------------------------------- normalizing


@case("BatchNormalization", LINEAR, "of places", layers={"producer": (4 * FULL, 4 * EXACT)})
def _batchnorm_places(relation: str) -> onnx.ModelProto:
    """A generator: a Gemm makes four places of every channel, which are one unit."""
    net = Net()
    rows, biases = zip(*(planted_rows(net, relation, 6) for _ in range(4)), strict=True)
    hidden = net.dense("producer", net.input("batch", 6), np.stack(rows, 1).reshape(-1, 6), np.stack(biases, 1).ravel())
    hidden = net.node("Reshape", hidden, net.ints(-1, FULL, 2, 2))
    ones, zeros = np.ones(FULL), np.zeros(FULL)
    hidden = net.batchnorm(hidden, ones, zeros, zeros, ones)
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 1, 1), net.normal(4)))


@case("ReduceSum", UNSHIFTED, "of places", silent="shifted", layers={"producer": (2 * FULL, 2 * EXACT)})
def _sum_of_places(relation: str) -> onnx.ModelProto:
    net = Net()
    rows, biases = zip(*(planted_rows(net, relation, 6) for _ in range(2)), strict=True)
    hidden = net.dense("producer", net.input("batch", 6), np.stack(rows, 1).reshape(-1, 6), np.stack(biases, 1).ravel())
    hidden = net.node("Reshape", hidden, net.ints(-1, FULL, 2))
    hidden = net.node("ReduceSum", hidden, net.ints(2), keepdims=0)
    return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


def _instance(*, scaled: bool) -> PlantedMiddle:
    def middle(net: Net, data: str, relation: str) -> str:
        scale, shift = np.abs(net.normal(FULL)) + 0.5, net.normal(FULL)
        if scaled:
            scale, shift = copies("equal", scale), copies("equal", shift)
        made = net.node("InstanceNormalization", data, net.constant(scale), net.constant(shift))
        return net.node("Relu", made) if scaled else made

    return middle


def _along_width(op: str, opset: int, parameters: int, **attributes: int | Sequence[int]) -> None:
    def middle(net: Net, data: str, relation: str) -> str:
        return net.node(op, data, *(net.constant(net.normal(6)) for _ in range(parameters)), **attributes)

    conv_case(op, ALWAYS, middle, "along another axis", "opposite dead shifted", opset)
    if parameters:
        return

    def across(net: Net, data: str, relation: str) -> str:
        axes = {"axis": 1} if "axes" not in attributes else {"axes": [1, 2, 3]}
        return net.node(op, data, **axes)

    conv_case(op, frozenset(), across, "across channels", opset=opset)


@case("LayerNormalization", frozenset(), "across channels")
def _layer_normalization(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    hidden = net.node("LayerNormalization", hidden, net.constant(net.normal(FULL)))
    return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


def _normalizing() -> None:
    conv_case("InstanceNormalization", LINEAR - {"scaled", "negative"}, _instance(scaled=False))
    conv_case("InstanceNormalization", ALWAYS | {"shifted"}, _instance(scaled=True), "relu")
    _along_width("LayerNormalization", 17, 2, axis=-1)
    _along_width("RMSNormalization", 23, 1, axis=-1)
    _along_width("LpNormalization", 17, 0, axis=-1)
    _along_width("MeanVarianceNormalization", 17, 0, axes=[0, 2, 3])

    def grouped(net: Net, data: str, relation: str) -> str:
        parameters = (net.constant(v) for v in (np.ones(FULL), np.zeros(FULL)))
        return net.node("GroupNormalization", data, *parameters, num_groups=2)

    conv_case("GroupNormalization", frozenset(), grouped, opset=21)


# ------------------------------------------------------------------------------------- along other axes


def _place(op: str, axis: int) -> PlantedMiddle:
    """The place of the largest or smallest number, for as many channels as there are."""

    def middle(net: Net, data: str, relation: str) -> str:
        place = net.node("Cast", net.node(op, data, axis=axis), to=TensorProto.FLOAT)
        return place if axis != 1 else net.node("Tile", place, net.ints(1, FULL, 1, 1))

    return middle


def _positions() -> None:
    for op in ("ArgMax", "ArgMin"):
        conv_case(op, ALWAYS, _place(op, 3), "places", "dead scaled shifted")
        conv_case(op, frozenset(), _place(op, 1), "channels")
    conv_case("CumSum", UNSHIFTED, lambda n, x, _: n.node("CumSum", x, n.constant(np.array(2))))
    conv_case("CumSum", frozenset(), lambda n, x, _: n.node("CumSum", x, n.constant(np.array(1))), "channels")
    conv_case("Trilu", UNSHIFTED, apply("Trilu", upper=0), opset=17)
    conv_case("LpPool", ABSOLUTE, apply("LpPool", kernel_shape=[2, 2], p=2), opset=18)
    conv_case("GlobalLpPool", ABSOLUTE, apply("GlobalLpPool", p=2))
    spatial_case(
        "ReduceLogSum",
        ALWAYS,
        lambda n, x: n.node("ReduceLogSum", n.node("Exp", x), axes=[2, 3], keepdims=0),
        1,
        silent="dead shifted",
    )


# ------------------------------------------------------------------------------- recurrent and embeddings


def _recurrent(op: str, gates: int) -> None:
    for directions in (1, 2):

        @case(op, UNSHIFTED, f"{directions} directions")
        def build(relation: str, directions: int = directions) -> onnx.ModelProto:
            """The channels are its inputs at every step."""
            net = Net()
            hidden = net.matmul("producer", net.input(4, "batch", 6), *planted_rows(net, relation, 6))
            size = 3
            columns = planted_columns(net, relation, directions * gates * size) * np.float32(0.3)
            weights = (
                columns.reshape(directions, gates * size, FULL),
                net.normal(directions, gates * size, size) * np.float32(0.3),
                net.normal(directions, 2 * gates * size),
            )
            direction = "bidirectional" if directions == 2 else "forward"
            inputs = (net.constant(w) for w in weights)
            made = net.node(op, hidden, *inputs, name="recurrent", hidden_size=size, direction=direction)
            return net.build(made)


@case("Gather", UNSHIFTED, "embedding", silent="shifted")
def _embedding(relation: str) -> onnx.ModelProto:
    """A table's columns are the channels."""
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5]))
    table = copies(relation, net.normal(FULL, 11), net.normal(FULL, 11)).T
    hidden = net.node("Gather", net.constant(table), "ids", name="producer")
    return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


for _family in (_resizing, _moving, _normalizing, _positions):
    _family()
for _mode in ("DCR", "CRD"):
    _pixel_shuffle(_mode)
for _op, _gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    _recurrent(_op, _gates)
