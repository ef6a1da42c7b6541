"""`onnx-condense verify` as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support import builders
from support.cli import Cli, Save

import onnx_condense


def test_verify_exit_codes(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    other = builders.mlp((8, 16, 3))
    builders.set_weight(other, "b1", builders.weight(other, "b1") + np.float32(1e-2))
    save(other, "other.onnx")
    assert "y" in cli.ok("verify", "m.onnx", "m.onnx").out
    error = onnx_condense.verify("m.onnx", "other.onnx").error
    assert 1e-3 < error < 1e-1
    assert f"{error:.3g}" in cli.fails(1, "verify", "m.onnx", "other.onnx")
    cli.fails(1, "verify", "m.onnx", "other.onnx", "--tolerance", f"{error * 0.99}")
    cli.ok("verify", "m.onnx", "other.onnx", "--tolerance", f"{error * 1.01}")


def test_verify_default_tolerance_is_1e_5(cli: Cli, save: Save) -> None:
    for factor, code in ((1 + 5e-6, 0), (1 + 2e-5, 1)):
        for name, scale in (("a.onnx", 1.0), ("b.onnx", factor)):
            text = "g (double[N, 4] x) => (double[N, 4] y) { y = Mul(x, s) }"
            save(builders.build(text, {"s": np.array([scale])}), name)
        assert cli.run("verify", "a.onnx", "b.onnx").code == code


def test_verify_uses_the_data(cli: Cli, save: Save) -> None:
    """The models differ for negative numbers only."""
    for name, op in (("a.onnx", "Relu"), ("b.onnx", "Abs")):
        save(builders.build(f"g (float[N, 4] x) => (float[N, 4] y) {{ y = {op}(x) }}"), name)
    np.savez("positive.npz", x=np.abs(builders.random(3, 4)))
    cli.fails(1, "verify", "a.onnx", "b.onnx")
    cli.ok("verify", "a.onnx", "b.onnx", "--data", "positive.npz")


def test_errors_on_generated_inputs_are_said_to_be_so(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    np.savez("x.npz", x=builders.random(5, 8))
    assert "On 16 generated samples: --data INPUTS.npz" in cli.ok("verify", "m.onnx", "m.onnx").out
    assert cli.ok("verify", "m.onnx", "m.onnx", "--data", "x.npz").out.endswith("On 5 given samples.\n")


def test_json_says_what_a_report_says(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    cli.ok("verify", "m.onnx", "m.onnx", "--report", "r.json")
    content = json.loads(Path("r.json").read_text())
    assert content == json.loads(cli.ok("verify", "m.onnx", "m.onnx", "--json").out)
    assert (content["models"], content["generated"]) == (["m.onnx", "m.onnx"], True)


def test_verify_counts_integer_outputs(cli: Cli, save: Save) -> None:
    for name, op in (("a.onnx", "ArgMax"), ("b.onnx", "ArgMin")):
        save(
            builders.build(f"g (float[N, 4] x) => (int64[N] y) {{ y = {op}<axis = 1, keepdims = 0>(x) }}"),
            name,
        )
    cli.ok("verify", "a.onnx", "a.onnx")
    cli.fails(1, "verify", "a.onnx", "b.onnx")


def test_verify_wants_the_same_outputs(cli: Cli, save: Save) -> None:
    save(builders.build("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), "a.onnx")
    save(builders.build("g (float[N, 4] x) => (float[N, 4] z) { z = Relu(x) }"), "b.onnx")
    assert "y" in cli.fails(2, "verify", "a.onnx", "b.onnx")


def test_verify_wants_the_same_inputs(cli: Cli, save: Save) -> None:
    save(builders.build("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), "a.onnx")
    save(builders.build("g (float[N, 5] z) => (float[N, 5] y) { y = Relu(z) }"), "b.onnx")
    cli.fails(2, "verify", "a.onnx", "b.onnx")


def test_verify_finds_other_shapes_of_outputs(cli: Cli, save: Save) -> None:
    save(builders.build("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), "a.onnx")
    save(builders.build("g (float[N, 4] x) => (float[4, N] y) { y = Transpose(x) }"), "b.onnx")
    cli.fails(1, "verify", "a.onnx", "b.onnx")
