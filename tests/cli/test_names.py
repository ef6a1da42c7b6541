"""Names are data: no name of a model, of a file or of an array does anything to a terminal."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import Cli, Save

import onnx_condense as oc
from onnx_condense.cli.streams import fitting

NASTY = "w[/bold]\x1b]52;c;QQ==\x07\x1b[31m\x9b2J\u202e\u2066\u2028\r\n:smile:\x00$\\frac$"
QUIET = "w[/bold]\\x1b]52;c;QQ==\\x07\\x1b[31m\\x9b2J\\u202e\\u2066\\u2028\\r\\n:smile:\\x00$\\frac$"


def named(suffix: str = "") -> onnx.ModelProto:
    """A model with copies, every name in it nasty."""
    model = builders.mlp((8, 16, 16, 3), clusters=(5, 16))
    graph = model.graph
    renamed = {name: f"{name}{NASTY}{suffix}" for node in graph.node for name in (*node.input, *node.output) if name}
    for node in graph.node:
        node.name += NASTY
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = renamed[value.name]
    del graph.value_info[:]
    graph.name = model.producer_name = NASTY
    onnx.helper.set_model_props(model, {NASTY: NASTY})
    return model


def harmless(text: str) -> None:
    """Nothing in what was printed is a control character, or turns what follows around."""
    found = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert not found
    assert not any(line.startswith((":smile:", "\\x00")) for line in text.splitlines()), "a name ended a line"


RUNS: dict[str, Sequence[str]] = {
    "condense": ("m.onnx", "--threshold", "0.9", "--align", "1", "--report", "r.json", "--plan", "p.json"),
    "lossless": ("m.onnx", "--lossless", "--force"),
    "inspect": ("inspect", "m.onnx"),
    "verify": ("verify", "m.onnx", "m.condensed.onnx"),
    "diff": ("diff", "m.onnx", "m.condensed.onnx"),
    "verify, json": ("verify", "m.onnx", "m.condensed.onnx", "--json"),
    "bench": ("bench", "m.onnx", "--seconds", "0.1", "--profile"),
    "bench, json": ("bench", "m.onnx", "--seconds", "0.1", "--json"),
    "replay": ("m.onnx", "--replay", "p.json", "--force"),
    "no such input": ("m.onnx", "--input-shape", f"{NASTY}=1x8", "--force"),
    "no such layer": ("m.onnx", "--include", NASTY.replace("[", "[[]") + "?", "--force"),
    "no such file": (NASTY.replace("\0", ""),),
    "no such folder": ("m.onnx", "-o", f"{NASTY}/x.onnx".replace("\0", "")),
    "no such option": ("m.onnx", f"--{NASTY}"),
    "no such data": ("m.onnx", "--data", "other.npz", "--force"),
    "NaN": ("m.onnx", "--data", "nan.npz", "--force"),
    "other outputs": ("verify", "m.onnx", "other.onnx"),
    "other inputs": ("bench", "m.onnx", "third.onnx"),
    "no such trainer": ("auto", "m.onnx", "--trainer", "false", "--work", "w"),
}


def test_no_name_does_anything(cli: Cli, save: Save) -> None:
    model, other = named(), named("2")
    save(model)
    save(other, "third.onnx")
    other.graph.input[0].name = other.graph.node[0].input[0] = model.graph.input[0].name
    save(other, "other.onnx")
    np.savez("other.npz", **{NASTY.replace("/", "").replace("\0", ""): builders.random(4, 8)})
    np.savez("nan.npz", **{"x" + NASTY.replace("/", ""): np.full((4, 8), np.nan)})
    for name, arguments in RUNS.items():
        outcome = cli.run(*arguments)
        assert "internal error" not in outcome.err, (name, outcome.err)
        assert outcome.code == (0 if list(RUNS).index(name) < 8 else outcome.code or 0), (name, outcome.err)
        assert all(line.startswith("onnx-condense: ") for line in outcome.err.splitlines()), (name, outcome.err)
        harmless(outcome.out + outcome.err)
    assert json.loads(Path("r.json").read_text())["groups"][0]["layers"][0] == "fc0" + NASTY, "JSON holds names exactly"


def test_a_name_is_shown_as_it_is(cli: Cli, save: Save) -> None:
    save(named())
    assert "fc0" + QUIET in cli.ok("inspect", "m.onnx").out


def test_an_error_in_python_is_harmless_too() -> None:
    with pytest.raises(oc.UsageError) as refused:
        oc.condense(named(), oc.Options(input_shape={NASTY: (1,)}))
    harmless(str(refused.value))


def test_file_names_that_are_no_text(cli: Cli, save: Save) -> None:
    name = "m\udce4.onnx"
    save(builders.mlp((8, 16, 3), clusters=4)).rename(cli.folder / name)
    assert "m\\udce4.condensed.onnx" in cli.ok(name, "--report", "r.json").out
    assert "\\udce4" in cli.fails(2, name)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_is_printed_fits(encoding: str) -> None:
    text = fitting("16 → 8 µ …", encoding)
    assert text.encode(encoding)
    assert encoding != "ascii" or text == "16 -> 8 \\xb5 ..."
