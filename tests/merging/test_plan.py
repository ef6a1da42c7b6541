"""Plans as files: a round trip loses nothing, and damage is noticed."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import builders
from support.cli import Cli, Save, snapshot

import onnx_condense as oc
from onnx_condense.merging.long_arrays import INLINE
from onnx_condense.model.protos import serialize

MODEL = builders.mlp((8, 16, 16, 3), clusters=(5, 4))
LONG = builders.mlp((8, INLINE + 44, 3), clusters=12)
STATED = oc.Options(threshold=0.88)


def test_round_trip(tmp_path: Path) -> None:
    plan = oc.condense(MODEL, STATED).plan
    plan.save(tmp_path / "p.json")
    assert set(snapshot(tmp_path)) == {"p.json"}
    loaded = oc.Plan.load(tmp_path / "p.json")
    assert dataclasses.replace(loaded, options={}) == dataclasses.replace(plan, options={})
    assert json.dumps(dict(loaded.options), sort_keys=True) == json.dumps(dict(plan.options), sort_keys=True)
    assert oc.Plan.from_json(json.loads(json.dumps(plan.to_json()))) == loaded


def test_a_plan_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_text("precious")
    plan = oc.condense(LONG, STATED).plan
    before = snapshot(tmp_path)
    plan.save(tmp_path / "p.json")
    assert snapshot(tmp_path) == before | {"p.json": snapshot(tmp_path)["p.json"]}
    stated = json.loads((tmp_path / "p.json").read_text())["groups"][0]["main"]
    assert (stated["dtype"], stated["shape"]) == ("int64", [INLINE + 44])
    loaded = oc.Plan.load(tmp_path / "p.json")
    assert (loaded.groups, loaded.refits, loaded.measured) == (plan.groups, plan.refits, plan.measured)
    assert serialize(oc.rewrite(LONG, loaded)) == serialize(oc.condense(LONG, STATED).model)


def earlier(plan: oc.Plan, path: Path) -> None:
    """A plan as format 1 had it: long arrays in an .npz beside it, and not what its run measured."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def named(value: Any) -> Any:
        arrays[str(len(arrays))] = value
        return {"array": str(len(arrays) - 1)}

    content = json.loads(json.dumps(plan.to_json(), default=named)) | {"version": 1}
    del content["measured"]
    np.savez(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    digest = hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest()
    path.write_text(json.dumps(content | {"arrays": {"file": path.with_suffix(".npz").name, "sha256": digest}}))


def test_plans_of_format_1_are_read(tmp_path: Path) -> None:
    plan = oc.condense(LONG, STATED).plan
    earlier(plan, tmp_path / "p.json")
    loaded = oc.Plan.load(tmp_path / "p.json")
    assert (loaded.groups, loaded.refits, loaded.measured) == (plan.groups, plan.refits, None)
    assert serialize(oc.condense(LONG, replay=loaded).model) == serialize(oc.condense(LONG, STATED).model)


@pytest.mark.parametrize("change", ["tampered", "missing", "cut", "another plan's"])
def test_arrays_that_are_not_those_of_a_plan_of_format_1(tmp_path: Path, change: str) -> None:
    earlier(oc.condense(LONG, STATED).plan, tmp_path / "p.json")
    beside = tmp_path / "p.npz"
    with np.load(beside) as file:
        arrays = dict(file)
    match change:
        case "tampered":
            np.savez(beside, **{name: array[::-1] for name, array in arrays.items()})  # type: ignore[arg-type]
        case "missing":
            beside.unlink()
        case "cut":
            beside.write_bytes(beside.read_bytes()[:-10])
        case _:
            earlier(oc.condense(LONG, oc.Options(merge="delete")).plan, tmp_path / "other.json")
            beside.write_bytes((tmp_path / "other.npz").read_bytes())
    with pytest.raises(oc.PlanError, match=r"p\.npz"):
        oc.Plan.load(tmp_path / "p.json")


ARRAY_DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no sha256": lambda a: a.pop("sha256"),
    "other numbers": lambda a: a.update(base64=a["base64"][::-1]),
    "no base64": lambda a: a.update(base64="?"),
    "cut": lambda a: a.update(base64=a["base64"][:-8]),
    "shape": lambda a: a.update(shape=[3]),
    "shape is text": lambda a: a.update(shape="x"),
    "objects": lambda a: a.update(dtype="object"),
    "unknown type": lambda a: a.update(dtype="float7"),
    "bytes are a number": lambda a: a.update(base64=3),
}


@pytest.mark.parametrize("name", ARRAY_DAMAGES)
def test_damaged_arrays_are_refused(tmp_path: Path, name: str) -> None:
    oc.condense(LONG, STATED).plan.save(tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    ARRAY_DAMAGES[name](content["groups"][0]["main"])
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(oc.PlanError, match="damaged"):
        oc.Plan.load(tmp_path / "p.json")


@pytest.mark.parametrize(("factor", "data"), [(10.0, False), (-30.0, True), (1e6, False), (1e300, True)])
def test_a_plan_whose_ratios_were_altered_is_not_written(cli: Cli, save: Save, factor: float, data: bool) -> None:
    """On the inputs of its own run, and on others."""
    save(MODEL)
    np.savez("x.npz", x=builders.random(32, 8))
    cli.ok("m.onnx", "--merge", "ratio", "--plan", "p.json", "--dry-run", "-o", "dry.onnx")
    cli.ok("m.onnx", "--merge", "ratio", "--plan", "q.json", *(("--data", "x.npz") if data else ()))
    content = json.loads(Path("q.json").read_text())
    for read in content["groups"][0]["reads"]:
        read["ratio"] = [value * factor for value in read["ratio"]]
    Path("q.json").write_text(json.dumps(content))
    assert cli.fails(1, "m.onnx", "--replay", "q.json", "-o", "again.onnx")
    assert cli.ok("m.onnx", "--replay", "p.json", "-o", "dry.onnx").written == {"dry.onnx"}


@pytest.mark.parametrize("version", [0, 6, 99, "2", None, 2.5, True])
def test_plans_of_other_versions_say_which(cli: Cli, save: Save, content: dict[str, Any], version: Any) -> None:
    save(MODEL)
    Path("p.json").write_text(json.dumps(content | {"version": version}))
    assert f"version {version}" in cli.fails(2, "m.onnx", "--replay", "p.json")


def test_a_report_is_no_plan(cli: Cli, save: Save) -> None:
    save(MODEL)
    cli.ok("m.onnx", "--report", "r.json")
    assert "onnx-condense-report" in cli.fails(2, "m.onnx", "--replay", "r.json", "-o", "again.onnx")


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    plan = oc.condense(LONG, STATED).plan
    plan.save(tmp_path / "p.json")
    before = snapshot(tmp_path)
    plan.save(tmp_path / "p.json")
    assert snapshot(tmp_path) == before


def test_a_plan_names_its_model_and_decisions() -> None:
    plan = oc.condense(MODEL, oc.Options(threshold=0.9, align=4)).plan
    assert len(plan.model_sha256) == 64
    assert (plan.method, plan.align, plan.fold_batchnorm) == ("auto", 4, False)
    assert plan.options["threshold"] == 0.9
    assert set(plan.input_shapes) == {"x"}
    first = plan.groups[0]
    assert (first.layers, first.width) == (("fc0",), 16)
    assert first.keep == tuple(sorted(first.keep))
    assert len(first.keep) == 5
    assert all(first.main[m] == m for m in first.main), "channels merge into channels that stay"
    for j, main in enumerate(first.main):
        assert j % 5 == main % 5, "clusters were planted modulo 5"
        ratio = first.reads[0].ratio[j]
        planted = np.append(builders.weight(MODEL, "w0")[j], builders.weight(MODEL, "b0")[j])
        other = np.append(builders.weight(MODEL, "w0")[main], builders.weight(MODEL, "b0")[main])
        assert ratio == pytest.approx(np.linalg.norm(planted) / np.linalg.norm(other), rel=1e-6)
    assert first.reads[0].layer == "fc1"
    assert not any(first.reads[0].constant)


def test_main_neurons_have_most_neighbours_and_ties_go_to_the_lowest_index() -> None:
    """Angles 0, 20, 40 and 90, 110 degrees at cos 25: 20 has two neighbours, then 90 and 110 tie."""
    angles = np.deg2rad([0, 20, 40, 90, 110])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    text = "g (float[N, 2] x) => (float[N, 3] y) { z = Gemm<transB = 1>(x, w) h = Relu(z) y = Gemm(h, v) }"
    model = builders.build(text, {"w": rows, "v": builders.random(5, 3)})
    plan = oc.condense(model, oc.Options(threshold=float(np.cos(np.deg2rad(25))))).plan
    assert plan.groups[0].main == (1, 1, 1, 3, 3)


# ---------------------------------------------------------------------- damage

Damage = Callable[[dict[str, Any]], None]


def put(*path: str | int, value: Any) -> Damage:
    """Sets what lies at a path of the JSON."""

    def damage(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return damage


def drop(*path: str | int) -> Damage:
    """Removes what lies at a path of the JSON."""

    def damage(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return damage


FIRST = ("groups", 0)
READ = ("groups", 0, "reads", 0)
REFIT = {"node": 0, "input": 1, "layer": "fc0", "source": "weights", "weight": [[1.0]], "shift": []}
FACTOR = {"node": 0, "input": 1, "layer": "fc0", "source": None, "basis": [[1.0]]}
MIX = {"group": 0, "side": 0, "source": "weights", "matrix": [[1.0]]}
WRITER = {"weight": "w0", "axis": 0, "bias": "", "normalized": None}
READER = {"name": "w1", "axis": 1}
BASIS = {"layer": "fc0", "writers": [WRITER], "readers": [READER], "added": [], "rank": 1}
BASIS |= {name: np.eye(16).tolist() for name in ("into", "back")}
NORM = {"scale": "b0", "shift": "b0", "mean": "b0", "var": "b0", "epsilon": "x"}
BEYOND = 10**400
DAMAGES: dict[str, Damage] = {
    "other format": put("format", value="something"),
    "later version": put("version", value=7),
    "no model": drop("model_sha256"),
    "no groups": drop("groups"),
    "groups are a number": put("groups", value=5),
    "group is text": put("groups", 0, value="fc0"),
    "no main": drop(*FIRST, "main"),
    "main too short": put(*FIRST, "main", value=[0]),
    "main beyond the width": put(*FIRST, "main", 3, value=99),
    "main below -1": put(*FIRST, "main", 3, value=-7),
    "main is text": put(*FIRST, "main", 3, value="a"),
    "main is a fraction": put(*FIRST, "main", 3, value=0.5),
    "main that does not stay": put(*FIRST, "main", value=[1, 0, *range(2, 16)]),
    "nothing stays": put(*FIRST, "main", value=[-1] * 16),
    "unknown group": put(*FIRST, "index", value=77),
    "another layer": put(*FIRST, "layers", value=["fc7"]),
    "layers missing": drop(*FIRST, "layers"),
    "cosine too short": put(*FIRST, "cosine", value=[1.0]),
    "ratio too short": put(*READ, "ratio", value=[1.0]),
    "ratio is text": put(*READ, "ratio", 0, value="x"),
    "ratio is null": put(*READ, "ratio", 6, value=None),
    "ratio is NaN": put(*READ, "ratio", 6, value=float("nan")),
    "constant too short": put(*READ, "constant", value=[]),
    "reads missing": put(*FIRST, "reads", value=[]),
    "read of an unknown node": put(*READ, "node", value=99),
    "array of another format": put(*FIRST, "main", value={"array": "0.main"}),
    "measured is a list": put("measured", value=[1]),
    "error is text": put("measured", "error", value="0"),
    "error is below 0": put("measured", "error", value=-1.0),
    "input shapes are a list": put("input_shapes", value=[1]),
    "options are a list": put("options", value=[1]),
    "align is text": put("align", value="auto"),
    "method is unknown": put("method", value="guess"),
    "no layers": put(*FIRST, "layers", value=[]),
    "read of a node that is a list": put(*READ, "node", value=[]),
    "error beyond all numbers": put("measured", "error", value=BEYOND),
    "refit of an unknown node": put("refits", value=[REFIT | {"node": 99}]),
    "refit of an unknown input": put("refits", value=[REFIT | {"input": 99}]),
    "refit of half a node": put("refits", value=[REFIT | {"node": 0.5}]),
    "factor of a node that is a list": put("factors", value=[FACTOR | {"node": []}]),
    "mix of a group that is a list": put("mixes", value=[MIX | {"group": []}]),
    "basis along an unknown axis": put("rotations", value=[BASIS | {"writers": [WRITER | {"axis": 99}]}]),
    "basis along a text": put("rotations", value=[BASIS | {"readers": [READER | {"axis": "x"}]}]),
    "basis of a name that is a list": put("rotations", value=[BASIS | {"readers": [READER | {"name": []}]}]),
    "epsilon that is text": put("rotations", value=[BASIS | {"writers": [WRITER | {"normalized": NORM}]}]),
    "basis beyond all numbers": put(
        "rotations",
        value=[BASIS | {"into": (np.eye(16) * 1e200).tolist(), "back": (np.eye(16) * 1e-200).tolist()}],
    ),
}


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """The JSON of a good plan."""
    return json.loads(json.dumps(oc.condense(MODEL, STATED).plan.to_json()))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_plans_are_refused(tmp_path: Path, content: dict[str, Any], name: str) -> None:
    damaged = copy.deepcopy(content)
    DAMAGES[name](damaged)
    assert damaged != content or name == "ratio is NaN"
    path = tmp_path / "p.json"
    path.write_text(json.dumps(damaged))
    with pytest.raises(oc.PlanError) as refused:
        oc.condense(MODEL, replay=oc.Plan.load(path))
    assert "plan" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"plan"', "{}", "\x00\x01", '{"format": "onnx-condense-plan"}']
)
def test_files_that_are_no_plans(cli: Cli, save: Save, text: str) -> None:
    save(MODEL)
    Path("p.json").write_text(text)
    assert "p.json" in cli.fails(2, "m.onnx", "--replay", "p.json")


def test_unreadable_plans(cli: Cli, save: Save) -> None:
    save(MODEL)
    Path("binary.json").write_bytes(bytes(range(128, 256)))
    Path("folder.json").mkdir()
    for name in ("missing.json", "binary.json", "folder.json", "m.onnx"):
        assert name in cli.fails(2, "m.onnx", "--replay", name)


def test_a_cut_plan(cli: Cli, save: Save) -> None:
    save(MODEL)
    cli.ok("m.onnx", "--plan", "p.json", "--dry-run")
    text = Path("p.json").read_text()
    for share in (10, 50, 90, 99):
        Path("p.json").write_text(text[: len(text) * share // 100])
        cli.fails(2, "m.onnx", "--replay", "p.json")


def test_a_plan_for_another_model() -> None:
    plan = oc.condense(MODEL, STATED).plan
    for other in (builders.mlp((8, 16, 16, 3), clusters=(5, 4), seed=1), builders.convnet()):
        for use in (lambda m: oc.rewrite(m, plan), lambda m: oc.condense(m, replay=plan)):
            with pytest.raises(oc.PlanError, match="another model"):
                use(other)
