"""Numbers that old opsets keep in an attribute and new ones in an input: which, since when, and at which position."""

from __future__ import annotations

from collections.abc import Mapping

REDUCTIONS = (
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp",
)  # fmt: skip

INPUTS: Mapping[tuple[str, str], Mapping[int, int]] = {
    ("Clip", "min"): {11: 1},
    ("Clip", "max"): {11: 2},
    ("CumSum", "axis"): {11: 1},
    ("Pad", "pads"): {11: 1},
    ("Pad", "value"): {11: 2},
    ("Pad", "axes"): {18: 3},
    ("ReduceSum", "axes"): {13: 1},
    **{(operator, "axes"): {18: 1} for operator in REDUCTIONS},
    ("Reshape", "shape"): {5: 1},
    ("Resize", "scales"): {10: 1, 11: 2},
    ("Slice", "starts"): {10: 1},
    ("Slice", "ends"): {10: 2},
    ("Slice", "axes"): {10: 3},
    ("Slice", "steps"): {10: 4},
    ("Split", "split"): {13: 1},
    ("Squeeze", "axes"): {13: 1},
    ("Tile", "repeats"): {6: 1},
    ("Unsqueeze", "axes"): {13: 1},
    ("Upsample", "scales"): {9: 1},
}
"""(operator, name) -> {opset: the input that holds the numbers from that opset on}."""


def input_for(operator: str, name: str, opset: int) -> int | None:
    """The position of the input that holds numbers in an opset; None where they are an attribute."""
    return max(((since, at) for since, at in INPUTS[operator, name].items() if since <= opset), default=(0, None))[1]
