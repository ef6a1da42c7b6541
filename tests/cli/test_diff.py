"""`onnx-condense diff`: what differs, layer by layer."""

from __future__ import annotations

import json

import onnx
from onnx import numpy_helper
from support import builders
from support.cli import Cli, Save


def test_widths_parameters_and_nodes(cli: Cli, save: Save) -> None:
    model = builders.mlp((4, 8, 8, 3), clusters=(5, 4))
    save(model)
    cli.ok("m.onnx", "--lossless", "--report", "r.json")
    found = json.loads(cli.ok("diff", "m.onnx", "m.condensed.onnx", "--json").out)
    report = json.loads((cli.folder / "r.json").read_text())
    assert found["format"] == "onnx-condense-difference"
    assert found["parameters"] == [report[side]["parameters"] for side in ("input", "output")]
    for layer in found["layers"]:
        lost = layer["parameters_before"] - layer["parameters_after"]
        assert lost >= 0
    lost = sum(layer["parameters_before"] - layer["parameters_after"] for layer in found["layers"])
    assert lost == found["parameters"][0] - found["parameters"][1] > 0
    assert (found["removed"], found["added"]) == ([], [])
    assert "Layers whose weights differ" in cli.ok("diff", "m.onnx", "m.condensed.onnx").out


def test_numbers_and_nodes_of_one_model(cli: Cli, save: Save) -> None:
    model = builders.mlp((4, 8, 8, 3))
    save(model)
    assert "No layer differs" in cli.ok("diff", "m.onnx", "m.onnx").out
    other = onnx.ModelProto.FromString(model.SerializeToString())
    first = other.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * 2, first.name))
    end = other.graph.node[-1]
    other.graph.node.add(op_type="Identity", name="more", input=["inner"], output=[end.output[0]])
    end.output[0] = "inner"
    save(other, "o.onnx")
    found = json.loads(cli.ok("diff", "m.onnx", "o.onnx", "--json").out)
    assert [layer["before"] == layer["after"] for layer in found["layers"]] == [True]
    assert found["added"] == [{"layer": "more", "operator": "Identity"}]
    assert "other numbers" in cli.ok("diff", "m.onnx", "o.onnx").out
    assert "cannot read" in cli.fails(2, "diff", "m.onnx", "missing.onnx")
