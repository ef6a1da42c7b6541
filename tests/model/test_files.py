"""What a condensed file keeps of its source, and how files are written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support import builders
from support.cli import snapshot
from support.outside import KINDS

import onnx_condense as oc
from onnx_condense.documents import PART, hold, write_atomically
from onnx_condense.model import data_files
from onnx_condense.model import files as model_io
from onnx_condense.model.protos import serialize
from onnx_condense.model.runtime import session
from onnx_condense.model.surgeon import export_graph, import_graph


def described() -> onnx.ModelProto:
    """An MLP that says everything that a file can say about itself."""
    model = builders.mlp((8, 16, 3), clusters=4, opset=15)
    model.ir_version = 9
    model.producer_name, model.producer_version = "trainer", "7.1"
    model.domain, model.model_version, model.doc_string = "org.example", 42, "what this model is"
    model.metadata_props.add(key="classes", value="a,b,c")
    model.opset_import.add(domain="ai.onnx.ml", version=3)
    model.graph.name, model.graph.doc_string = "the graph", "what the graph is"
    for node in model.graph.node:
        node.doc_string = f"doc of {node.name}"
    for tensor in model.graph.initializer:
        tensor.doc_string = f"doc of {tensor.name}"
    model.graph.input[0].doc_string = "doc of x"
    shapes: dict[str, list[str | int]] = {"z0": ["N", 16], "h0": ["N", 16]}
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape, doc_string=f"doc of {name}")
        for name, shape in shapes.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def nodes(model: onnx.ModelProto) -> list[dict[str, object]]:
    """Every node by its fields that say something."""
    return [{field.name: str(value) for field, value in node.ListFields() if value != ""} for node in model.graph.node]


def check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_what_the_file_says_about_itself_is_kept() -> None:
    before = described()
    after = oc.condense(before).model
    check(after)
    assert builders.weight(after, "w0").shape == (4, 8)
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(after, name) == getattr(before, name), name
    assert list(after.opset_import) == list(before.opset_import)
    assert {"classes": "a,b,c"}.items() <= {p.key: p.value for p in after.metadata_props}.items()
    assert (after.graph.name, after.graph.doc_string) == (before.graph.name, before.graph.doc_string)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert nodes(after) == nodes(before), "no node changes where only weights do"
    docs = {t.name: t.doc_string for t in after.graph.initializer}
    assert docs == {t.name: t.doc_string for t in before.graph.initializer}


def test_value_info_stays_and_is_true() -> None:
    after = oc.condense(described()).model
    assert {v.name: dims(v) for v in after.graph.value_info} == {"z0": ["N", 4], "h0": ["N", 4]}
    assert {v.name: v.doc_string for v in after.graph.value_info} == {"z0": "doc of z0", "h0": "doc of h0"}


@pytest.mark.parametrize(
    "model",
    [
        builders.mlp((8, 16, 16, 3), clusters=(5, 4)),
        builders.convnet(clusters=4),
        builders.convnet(clusters=4, ratios=False, batchnorm=True),
        builders.separable(8, 4),
        builders.mlp((8, 16, 3), clusters=4, dtype="float16"),
    ],
    ids=["mlp", "conv", "batchnorm", "separable", "float16"],
)
def test_inferred_value_info_of_every_tensor_stays_true(model: onnx.ModelProto) -> None:
    """Strict shape inference compares what is stated with what follows; nothing stated is lost."""
    before = onnx.shape_inference.infer_shapes(model)
    assert len(before.graph.value_info) > 1
    for options in (oc.Options(align=1), oc.Options(align=1, fold_batchnorm=True)):
        result = oc.condense(before, options)
        assert result.report.changed
        check(result.model)
        produced = {name for node in result.model.graph.node for name in node.output}
        stated = {v.name for v in result.model.graph.value_info}
        assert stated == {v.name for v in before.graph.value_info} & produced


def test_provenance_goes_into_metadata() -> None:
    model = described()
    result = oc.condense(model, oc.Options(threshold=0.9))
    found = {p.key: p.value for p in result.model.metadata_props}
    assert found["onnx_condense.version"] == oc.__version__
    assert found["onnx_condense.source_sha256"] == result.plan.model_sha256
    options = json.loads(found["onnx_condense.options"])
    assert options["threshold"] == 0.9
    assert "budget" not in options
    assert "exclude" not in options


def test_condensing_again_keeps_one_provenance() -> None:
    once = oc.condense(builders.mlp((8, 16, 16, 3), clusters=(5, 4)), oc.Options(include=("fc0",))).model
    twice = oc.condense(once).model
    keys = [p.key for p in twice.metadata_props]
    assert len(keys) == len(set(keys)) == 3
    assert builders.weight(twice, "w1").shape == (4, 5)


def test_unused_initializers_go_and_the_order_stays() -> None:
    model = builders.mlp((8, 16, 3), clusters=4)
    names = [tensor.name for tensor in model.graph.initializer]
    model.graph.initializer.insert(1, onnx.numpy_helper.from_array(builders.random(5), "unused"))
    result = oc.condense(model)
    assert [tensor.name for tensor in result.model.graph.initializer] == names
    assert "nothing reads unused (5 numbers): dropped" in result.report.warnings
    assert result.report.input.parameters == oc.analyze(builders.mlp((8, 16, 3), clusters=4)).model.parameters


def test_what_a_caller_may_set_stays() -> None:
    model = builders.mlp((8, 16, 3), clusters=4)
    model.graph.initializer.append(onnx.numpy_helper.from_array(builders.random(5), "given"))
    model.graph.input.append(onnx.helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, [5]))
    after = oc.condense(model).model
    assert "given" in {tensor.name for tensor in after.graph.initializer}
    assert "given" in {value.name for value in after.graph.input}


def test_output_is_deterministic() -> None:
    model = builders.convnet((3, 16), clusters=4)
    first, second = (serialize(oc.condense(model, oc.Options(align=1)).model) for _ in range(2))
    assert first == second


def test_import_and_export_without_a_change_is_the_identity() -> None:
    for model in (described(), builders.convnet(batchnorm=True), builders.separable()):
        graph = import_graph(model)
        origin = {id(node): index for index, node in enumerate(graph.nodes)}
        again = export_graph(graph, model, origin, (), {}, {})
        assert serialize(again) == serialize(model)


# ---------------------------------------------------------------------- loading


def test_a_loaded_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(described(), path)
    source = model_io.load(path)
    assert source.proto == described()
    assert source.sha256 == snapshot(tmp_path)["m.onnx"]
    assert (source.size, source.path, bool(source.external)) == (path.stat().st_size, path, False)


def test_external_data_is_loaded_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = builders.mlp((40, 16, 3))
    expected = builders.weight(model, "w0")
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    source = model_io.load(path)
    assert source.external
    assert source.size == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert (builders.weight(source.proto, "w0") == expected).all()
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert model_io.load(path).sha256 != source.sha256, "other weights are another model"


def test_a_model_in_memory_is_never_changed() -> None:
    model = builders.convnet(clusters=4, ratios=False, batchnorm=True)
    before = model.SerializeToString(deterministic=True)
    result = oc.condense(model, oc.Options(align=1, fold_batchnorm=True))
    oc.rewrite(model, result.plan)
    oc.analyze(model)
    oc.verify(model, result.model)
    assert result.report.changed
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("content", [b"", b"hello world, this is text", bytes(200)])
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(oc.InputError, match=r"m\.onnx"):
        model_io.load(path)


# ---------------------------------------------------------------------- saving


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(oc.InputError, match="No space left"):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == b"old"


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        assert write_atomically(tmp_path / "m.onnx", b"12345") == 5
    finally:
        os.umask(mask)
    assert (tmp_path / "m.onnx").stat().st_mode & 0o777 == 0o640


def test_external_weights_survive_a_round_trip(tmp_path: Path) -> None:
    model = builders.mlp((40, 16, 3))
    written = model_io.save(model, tmp_path / "m.onnx", external=True)
    (name,) = model_io.load(tmp_path / "m.onnx").external
    digest = snapshot(tmp_path)[name]
    assert set(snapshot(tmp_path)) == {"m.onnx", name}
    assert name == f"m.onnx.{digest[:16]}.data"
    assert written.size == sum(p.stat().st_size for p in tmp_path.iterdir())
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert model_io.load(tmp_path / "m.onnx").external
    assert oc.verify(model, tmp_path / "m.onnx").error == 0.0


def test_other_weights_lie_in_another_file_and_what_nobody_names_goes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    (tmp_path / "m.onnx.data").write_bytes(b"whose is this?")
    names = []
    for seed in range(3):
        model_io.save(builders.mlp((40, 16, 3), seed=seed), path, external=True)
        names += model_io.load(path).external
        if seed == 1:
            (tmp_path / "kept.onnx").write_bytes(path.read_bytes())
    assert len(set(names)) == 3
    assert set(snapshot(tmp_path)) == {"m.onnx", "m.onnx.data", "kept.onnx", *names[1:]}
    assert oc.verify(builders.mlp((40, 16, 3), seed=1), tmp_path / "kept.onnx").error == 0.0
    (tmp_path / "kept.onnx").unlink()
    model_io.save(builders.mlp((40, 16, 3)), path)
    assert set(snapshot(tmp_path)) == {"m.onnx", "m.onnx.data"}


def test_weights_of_the_source_stay_whatever_it_is_called(tmp_path: Path) -> None:
    model_io.save(builders.mlp((40, 16, 3)), tmp_path / "m.onnx", external=True)
    source = (tmp_path / "m.onnx").rename(tmp_path / "model")
    model_io.save(builders.mlp((40, 16, 3), seed=1), tmp_path / "m.onnx", external=True, source=source)
    assert oc.verify(builders.mlp((40, 16, 3)), source).error == 0.0


def test_what_another_run_holds_stays(tmp_path: Path) -> None:
    """Half-written files and weights of runs that are at work now; those of killed ones go."""
    held, left = (tmp_path / f".{name}{PART}" for name in ("held", "left"))
    data = tmp_path / f"m.onnx.{'0' * 16}.data"
    others = [tmp_path / name for name in (".film.part", f"m.onnx.{'0' * 15}.data", f"n.onnx.{'0' * 16}.data")]
    for path in (held, left, data, *others):
        path.write_bytes(b"")
    with open(held, "rb") as a, open(data, "rb") as b:
        assert hold(a.fileno())
        assert hold(b.fileno())
        model_io.save(builders.mlp((40, 16, 3)), tmp_path / "m.onnx")
    assert set(snapshot(tmp_path)) == {p.name for p in (held, data, *others)} | {"m.onnx"}
    model_io.save(builders.mlp((40, 16, 3)), tmp_path / "m.onnx")
    assert set(snapshot(tmp_path)) == {p.name for p in others} | {"m.onnx"}


def test_a_save_that_fails_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    model_io.save(builders.mlp((40, 16, 3)), path, external=True)
    before, replace = snapshot(tmp_path), os.replace

    def fail(part: Path, target: Path) -> None:
        if target == path:
            raise OSError(28, "No space left on device")
        replace(part, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(oc.InputError, match="No space left"):
        model_io.save(builders.mlp((40, 16, 3), seed=1), path, external=True)
    assert snapshot(tmp_path) == before


def test_a_pipe_gets_the_whole_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    model = builders.mlp((40, 16, 3))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(reader, "rb") as pipe:
        stored = model_io.save(model, tmp_path / "pipe", external=True)
        assert pipe.read() == serialize(model)
    assert stored.size == len(serialize(model))
    assert {p.name for p in tmp_path.iterdir()} == {"pipe"}


def test_permissions_stay_and_weights_have_those_of_their_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    path.chmod(0o600)
    model_io.save(builders.mlp((40, 16, 3)), path, external=True)
    (name,) = model_io.load(path).external
    assert {(tmp_path / n).stat().st_mode & 0o777 for n in ("m.onnx", name)} == {0o600}


def test_constants_too_large_for_a_message_lie_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of bodies and functions too; while they are small, they stay where every reader finds them."""
    for kind in KINDS:
        model, _ = KINDS[kind]()
        model_io.save(model, tmp_path / "m.onnx", external=True)
        assert bool(model_io.load(tmp_path / "m.onnx").external) == (kind in ("initializer", "branch"))
    monkeypatch.setattr(data_files, "LARGEST", 0)
    for kind in KINDS:
        model, _ = KINDS[kind]()
        model_io.save(model, tmp_path / "m.onnx", external=True)
        assert model_io.load(tmp_path / "m.onnx").external
        assert oc.verify(model, tmp_path / "m.onnx").error == 0.0
        assert session(tmp_path / "m.onnx")


def test_without_external_data_there_is_one_file(tmp_path: Path) -> None:
    model = builders.mlp((40, 16, 3))
    model_io.save(model, tmp_path / "m.onnx")
    assert set(snapshot(tmp_path)) == {"m.onnx"}
    assert onnx.load(tmp_path / "m.onnx") == model


def nested(depth: int) -> bytes:
    """A model of that many Ifs in each other, written without protobuf, which makes none that deep."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            size, length = size >> 7, length + bytes([size & 127 | 128])
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Identity"))
    for _ in range(depth):
        body = field(5, field(1, b"then_branch") + field(6, graph))
        graph = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + body)
    return field(7, graph)


@pytest.mark.parametrize("depth", [40, 5000])
def test_bodies_nest_as_deep_as_protobuf_reads(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    path.write_bytes(nested(30))
    assert model_io.load(path).proto.graph.node
    path.write_bytes(nested(depth))
    with pytest.raises(oc.InputError, match="nest more than 30 deep"):
        model_io.load(path)
