"""Every command of the pages for users runs, in their order, in a folder like a checkout; so do the examples."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import Cli
from support.pages import blocks, run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.site

FEWER = {
    "[:256]": "[:40]",
    "256, 64": "40, 20",
    "--seconds 2": "--seconds 0.2",
    "test.npz --shares": "test.npz --seconds 0.1 --shares",
}
"""Where a reader has more time."""


@pytest.fixture
def checkout(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A folder with what pages name; the commands' python is this one."""
    shutil.copytree(ROOT / "models", cli.folder / "models")
    shutil.copytree(DOCS / "examples", cli.folder / "docs" / "examples")
    states = dict(np.load(cli.folder / "models" / "surrogate_h2.test.npz"))
    np.savez(cli.folder / "models" / "surrogate_h2.test.npz", **{name: array[:200] for name, array in states.items()})
    monkeypatch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return cli


def transformer() -> onnx.ModelProto:
    """An embedding, a feed-forward layer, and a mask on what comes out."""
    weights = {
        "table": builders.random(100, 16),
        "up": builders.random(16, 64, seed=1),
        "down": builders.random(64, 16, seed=2),
        "axes": np.array([2]),
    }
    text = """g (int64[N, L] input_ids, int64[N, L] attention_mask) => (float[N, L, 16] y) {
        [embed] e = Gather(table, input_ids)
        [ffn_up] u = MatMul(e, up)
        [ffn_act] h = Relu(u)
        [ffn_down] d = MatMul(h, down)
        [mask] m = Cast<to = 1>(attention_mask)
        [mask_axis] k = Unsqueeze(m, axes)
        [out] y = Mul(d, k)
    }"""
    return builders.build(text, weights)


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_five_minutes(checkout: Cli) -> None:
    assert run(DOCS / "start.md", checkout, {}, FEWER) == 8


def test_data(checkout: Cli) -> None:
    pytest.importorskip("PIL")
    assert run(DOCS / "data.md", checkout, {}, FEWER) == 8


def test_recipes(checkout: Cli) -> None:
    pytest.importorskip("distributed")
    onnx.save(transformer(), "transformer.onnx")
    assert run(DOCS / "recipes.md", checkout, {}, FEWER | {"8786": free_port()}) == 15


def test_reports(checkout: Cli) -> None:
    pytest.importorskip("jinja2")
    assert run(DOCS / "report.md", checkout, {}, {"bench models": "bench --seconds 0.1 models"}) == 2


def test_other_tools(checkout: Cli) -> None:
    pytest.importorskip("polygraphy")
    assert run(DOCS / "doors.md", checkout, {}) == 4


def test_olive(checkout: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    workflows = pytest.importorskip("olive.workflows")
    assert workflows
    monkeypatch.setenv("OLIVE_DISABLE_TELEMETRY", "1")
    (program,) = [block for block in blocks(DOCS / "doors.md") if block.title == "olive_workflow.py"]
    exec(program.text, {})
    small = checkout.folder / "olive" / "model.onnx"
    assert small.stat().st_size < (checkout.folder / "models/digits_conv_bn.onnx").stat().st_size / 4
    assert "ConvInteger" in {node.op_type for node in onnx.load(small).graph.node}


def test_the_notebook(checkout: Cli) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(DOCS / "examples" / "look_inside.ipynb", 4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "error" in printed
    assert "moments: 0.99" in printed
