"""Random graphs by the checks of tools/fuzz_graphs.py, which runs thousands; and that these checks see faults."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import attention_graphs, builders
from support.wider_graphs import SIZES, feed, graph

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
fuzzed: Any = importlib.import_module("_fuzzed")
budgets: Any = importlib.import_module("_fuzzed_budgets")
replaying: Any = importlib.import_module("_replayed")
tool: Any = importlib.import_module("fuzz_graphs")

SEEDS = (*range(6), *range(7, 11))
"""6 is a network of 1,029 nodes, which takes most of the time."""
ATTENDING = range(4)


@pytest.mark.parametrize("seeds", [SEEDS[i : i + 5] for i in range(0, len(SEEDS), 5)], ids=lambda r: str(r[0]))
def test_random_graphs(seeds: Sequence[int], tmp_path: Path) -> None:
    condensed = replayed = 0
    for seed in seeds:
        found = fuzzed.checked(graph(seed), seed, tmp_path)
        assert not found.faults, seed
        condensed += [*found.outcomes.values()].count("condensed")
        replayed += found.replayed == "yes"
    assert condensed > len(seeds)
    assert replayed > len(seeds) // 2


def test_random_graphs_of_attention(tmp_path: Path) -> None:
    condensed = 0
    for seed in ATTENDING:
        found = fuzzed.checked(attention_graphs.graph(seed), seed, tmp_path)
        assert not found.faults, seed
        condensed += [*found.outcomes.values()].count("condensed")
    assert condensed > len(ATTENDING)


@pytest.mark.parametrize(("by", "seed"), [("budget", 1), ("budget", 67), ("calibration", 4)])
def test_random_graphs_to_budgets_and_with_calibration(by: str, seed: int, tmp_path: Path) -> None:
    """67 has channels that nobody reads beside others that are read more than once."""
    options, check = tool.WAYS[by]
    found = check(graph(seed), seed, tmp_path, options(seed))
    assert not found.faults
    assert set(found.outcomes.values()) == {"condensed"}


@pytest.mark.parametrize("seed", [5, 8])
def test_calibration_of_graphs_with_bodies(seed: int, tmp_path: Path) -> None:
    """Attention inside a Loop: copies of its body have inputs that no calibration inputs give."""
    options, check = tool.WAYS["calibration"]
    found = check(attention_graphs.graph(seed), seed, tmp_path, options(seed))
    assert not found.faults
    assert found.outcomes


def test_a_budget_that_is_not_kept_is_seen() -> None:
    sizes = {"parameters": 100, "macs": 100}
    report = {"input": sizes, "output": {"parameters": 60, "macs": 70}, "verification": None}
    assert not budgets.promised(report, ("--budget", "params=0.6"))
    assert "70 of 100 macs" in budgets.promised(report, ("--budget", "macs=0.6"))
    assert "101 parameters" in budgets.promised({**report, "output": {"parameters": 101, "macs": 70}}, ())


def test_a_seed_gives_one_graph() -> None:
    assert graph(3).SerializeToString() == graph(3).SerializeToString()
    assert graph(3).SerializeToString() != graph(4).SerializeToString()


def test_a_plan_that_says_something_else_is_seen(tmp_path: Path) -> None:
    """One ratio of the plan is doubled after the model was written."""
    source, out, plan = (tmp_path / name for name in ("m.onnx", "out.onnx", "plan.json"))
    model = builders.mlp((5, 12, 3), clusters=6)
    onnx.save(model, source)
    assert not fuzzed.run(source, "-o", out, "--plan", plan, *fuzzed.LOSSLESS).code
    inputs = builders.random(4, 5)
    small = fuzzed.runner(onnx.load(out))({"x": inputs})
    opened = fuzzed.open_model(source, fuzzed.Options())
    said = replaying.stated(plan)
    assert not fuzzed.differ(fuzzed.runner(replaying.replayed(opened.trace, said))({"x": inputs}), small)
    for merge in said.merges:
        merge.ratio[said.gone[merge.group]] *= 2
    assert fuzzed.differ(fuzzed.runner(replaying.replayed(opened.trace, said))({"x": inputs}), small)


def test_a_failing_graph_is_made_smaller() -> None:
    """To what fails: a Sin that is left."""
    model = builders.build(
        "g (float[N, 5] x) => (float[N, 5] y) { a = Relu(x) b = Tanh(a) c = Sin(b) d = Abs(c) e = Relu(d) y = Exp(e) }"
    )
    small = fuzzed.smaller(model, lambda m: any(node.op_type == "Sin" for node in m.graph.node))
    assert [node.op_type for node in small.graph.node] == ["Sin"]


def test_sizes_that_are_tied_follow_from_the_others() -> None:
    text = 'g (float[batch, 2] x, float["batch + 1", 2] z) => (float[M, 2] y) { y = Concat<axis = 0>(x, z) }'
    shapes = [value.shape for value in feed(builders.build(text), SIZES[2], 0).values()]
    assert shapes == [(5, 2), (6, 2)]


def test_what_an_infinity_reaches_is_not_compared(tmp_path: Path) -> None:
    """0 times an infinity is no number in the original, and nothing in the model without the channel."""
    model = builders.mlp((5, 8, 3), batch="batch")
    columns = builders.weight(model, "w1").copy()
    columns[:, 2] = 0
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(columns, "w1"))
    found = fuzzed.checked(model, 0, tmp_path, ("--threshold", "0.9"))
    assert not found.faults
    assert "condensed" in found.outcomes.values()
    small = fuzzed.runner(onnx.load(tmp_path / "lossless.onnx"))
    inputs = np.full((2, 5), np.inf, dtype=np.float32)
    assert np.isnan(fuzzed.runner(model)({"x": inputs})).sum() >= np.isnan(small({"x": inputs})).sum()


def test_graphs_that_ask_for_an_infinity_get_none() -> None:
    for op, names in (("Relu", {"infinity", "no number"}), ("IsNaN", set())):
        model = builders.build(f"g (float[batch, 2] x) => (float[batch, 2] y) {{ a = {op}(x) y = Cast<to = 1>(a) }}")
        drawn = {name for name, _, plain in fuzzed.feeds(model, 0) if plain is not None}
        assert drawn == names


def test_rounding_is_measured_on_the_inputs_of_the_command_line(tmp_path: Path) -> None:
    """With 512 samples these outputs are 0; with as many as it draws they are rounding alone."""
    text = """g (float[batch, 2] x) => (float[batch, 2] y) {
        length = Shape<end = 1>(x)
        count = Cast<to = 1>(length)
        less = Sub(most, count)
        far = Mul(x, less)
        much = Mul(far, most)
        y = Sin(much)
    }"""
    onnx.save(builders.build(text, {"most": np.float32([512])}), tmp_path / "m.onnx")
    assert fuzzed.is_rounding(tmp_path / "m.onnx", 0.5)
    onnx.save(builders.mlp((5, 8, 3)), tmp_path / "m.onnx")
    assert fuzzed.is_rounding(tmp_path / "m.onnx", 1e-4)
    assert not fuzzed.is_rounding(tmp_path / "m.onnx", 1e-2)


def test_rounding_beside_an_infinity(tmp_path: Path) -> None:
    found = fuzzed.checked(builders.cancelling(), 0, tmp_path, ("--threshold", "0.99", "--align", "1"))
    assert not found.faults
    assert found.outcomes["lossy"] == "condensed"


def test_options_are_those_of_the_seed() -> None:
    assert [fuzzed.options_of(seed) for seed in range(20)] == [fuzzed.options_of(seed) for seed in range(20)]
    assert len({json.dumps(fuzzed.options_of(seed)) for seed in range(20)}) > 10


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def tried(model: onnx.ModelProto, seed: int, *given: object) -> dict[str, Any]:
        done.append(seed)
        faults = {"lossless, twin": "apart"} if seed == 8 else {}
        return {"outcomes": {"lossless": "kept"}, "faults": faults, "replayed": ""}

    monkeypatch.setattr(tool, "tried", tried)
    told = tmp_path / "told.json"
    for count in ("2", "4"):
        assert tool.main(["--seed", "7", "--count", count, "--json", str(told)]) == 1
    assert done == [7, 8, 9, 10]
    found = json.loads(told.read_text())
    assert (found["counts"]["graphs"], list(found["failed"])) == (4, ["8"])
    with pytest.raises(SystemExit, match="other graphs"):
        tool.main(["--seed", "0", "--json", str(told)])
