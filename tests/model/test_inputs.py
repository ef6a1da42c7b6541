"""Verification inputs: the user's arrays cut into feeds, or seeded signed numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import builders

import onnx_condense as oc
from onnx_condense.model.inputs import Feed, input_specs, make_feeds
from onnx_condense.model.outputs import batch_in, sample_size, samples_in
from onnx_condense.refitting.samples import divisible


def feeds(
    model: onnx.ModelProto,
    data: Mapping[str, builders.Array] | Path | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> list[Feed]:
    return make_feeds(model, input_specs(model), data, shapes or {}, seed)


def relu(shape: str, kind: str = "float") -> onnx.ModelProto:
    return builders.build(f"g ({kind}[{shape}] x) => ({kind}[{shape}] y) {{ y = Identity(x) }}")


# ---------------------------------------------------------------------- specs


def test_specs_name_type_and_dims() -> None:
    text = "g (float[N, 3, 8, W] image, int64[4] ids, bool[N] flag) => (float[N, 3, 8, W] y) { y = Relu(image) }"
    specs = {spec.name: spec for spec in input_specs(builders.build(text))}
    assert list(specs) == ["image", "ids", "flag"]
    assert specs["image"].dims == ("N", 3, 8, "W")
    assert specs["image"].dtype == np.float32
    assert specs["ids"].dims == (4,)
    assert specs["ids"].dtype == np.int64
    assert specs["flag"].dtype == np.bool_


def test_initializers_are_no_inputs() -> None:
    model = builders.mlp((8, 16, 3))
    model.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [16, 8]))
    assert [spec.name for spec in input_specs(model)] == ["x"]


def test_inputs_that_are_no_numbers_are_refused() -> None:
    model = relu("N, 8")
    model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, ["N"]))
    with pytest.raises(oc.InputError, match="words"):
        input_specs(model)
    model.graph.input.pop()
    model.graph.input.append(helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, ["N"]))
    with pytest.raises(oc.InputError, match="list"):
        input_specs(model)


# ---------------------------------------------------------------------- generated


@pytest.mark.parametrize("shape", ["N, 8", "1, 8", "3, 8"])
def test_generated_inputs_are_signed_and_seeded(shape: str) -> None:
    model = relu(shape)
    first, again, other = feeds(model), feeds(model), feeds(model, seed=1)
    values = np.concatenate([feed["x"] for feed in first])
    assert len(values) > 1, "one sample says too little"
    assert len(np.unique(values, axis=0)) == len(values), "samples differ"
    assert (values < 0).any()
    assert (values > 0).any()
    assert 0.5 < values.std() < 1.5
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0]["x"], other[0]["x"])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("float16", np.float16),
        ("double", np.float64),
        ("int64", np.int64),
        ("bool", np.bool_),
        ("uint8", np.uint8),
    ],
)
def test_generated_inputs_have_the_models_type(kind: str, dtype: Any) -> None:
    made = feeds(relu("N, 8", kind))[0]["x"]
    assert made.dtype == dtype
    assert len(np.unique(made)) > 1


def test_integers_stay_within_the_table_that_they_index() -> None:
    """Found by condense itself: an index beyond the table would make onnxruntime fail."""
    text = """g (int64[N, 6] ids) => (float[N, 6, 2] y) {
        e = Gather(table, ids)
        [up] z = MatMul(e, w0)
        h = Relu(z)
        [down] y = MatMul(h, w1)
    }"""
    weights = {
        "table": builders.random(5, 4),
        "w0": builders.clustered(12, 4, 3).T.copy(),
        "w1": builders.random(12, 2),
    }
    model = builders.build(text, weights)
    specs = input_specs(model, {"ids": 5})
    values = np.concatenate([f["ids"].ravel() for seed in range(4) for f in make_feeds(model, specs, None, {}, seed)])
    assert set(values.tolist()) == {0, 1, 2, 3, 4}
    report = oc.condense(model).report
    assert [(g.width_before, g.width_after) for g in report.groups if "up" in g.layers] == [(12, 3)]


def test_symbolic_sizes_are_found_by_trying() -> None:
    """Only 16 x 16 fits: the flattened image meets a weight of that size."""
    text = "g (float[N, 1, H, W] x) => (float[N, 2] y) { f = Flatten(x) y = MatMul(f, w) }"
    made = feeds(builders.build(text, {"w": builders.random(256, 2)}, check=False))
    assert made[0]["x"].shape[1:] == (1, 16, 16)


def test_sizes_that_cannot_be_found_name_the_options() -> None:
    text = "g (float[N, 1, H, W] x) => (float[N, 2] y) { f = Flatten(x) y = MatMul(f, w) }"
    model = builders.build(text, {"w": builders.random(7 * 11, 2)}, check=False)
    with pytest.raises(oc.InputError, match=r"--input-shape.*--data"):
        feeds(model)
    assert feeds(model, shapes={"x": (2, 1, 7, 11)})[0]["x"].shape == (2, 1, 7, 11)


def test_a_model_without_inputs_runs_once() -> None:
    model = builders.build("g () => (float[2, 2] y) { y = Relu(w) }", {"w": builders.random(2, 2)})
    assert feeds(model)[0] == {}


# ---------------------------------------------------------------------- --input-shape


@pytest.mark.parametrize(
    "shapes",
    [{"z": (1, 8)}, {"x": (1, 8, 1)}, {"x": (8,)}, {"x": (1, 9)}, {"x": (0, 8)}, {"x": (-1, 8)}],
    ids=str,
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(oc.UsageError, match="--input-shape"):
        feeds(relu("N, 8"), shapes=shapes)


def test_a_given_shape_is_used_as_it_is() -> None:
    made = feeds(relu("N, 8"), shapes={"x": (5, 8)})
    assert {feed["x"].shape for feed in made} == {(5, 8)}


# ---------------------------------------------------------------------- --data


@pytest.mark.parametrize(
    ("dims", "shape", "pieces"),
    [
        ("N, 8", (5, 8), [(5, 8)]),
        ("N, 8", (100, 8), [(64, 8), (36, 8)]),
        ("1, 8", (3, 8), [(1, 8)] * 3),
        ("2, 8", (6, 8), [(2, 8)] * 3),
        ("2, 8", (4, 2, 8), [(2, 8)] * 4),
        ("8", (3, 8), [(8,)] * 3),
        ("1, 3, H, W", (2, 3, 4, 5), [(1, 3, 4, 5)] * 2),
    ],
)
def test_samples_on_axis_0_become_feeds(dims: str, shape: tuple[int, ...], pieces: list[tuple[int, ...]]) -> None:
    data = builders.random(*shape)
    made = feeds(relu(dims), {"x": data})
    assert [feed["x"].shape for feed in made] == pieces
    assert np.array_equal(np.concatenate([feed["x"].ravel() for feed in made]), data.ravel())


def test_several_inputs_are_cut_alike() -> None:
    model = builders.build("g (float[1, 4] a, float[1, 4] b) => (float[1, 4] y) { y = Add(a, b) }")
    a, b = builders.random(3, 4), builders.random(3, 4, seed=1)
    made = feeds(model, {"a": a, "b": b, "unrelated": np.zeros(3)})
    assert [list(feed) for feed in made] == [["a", "b"]] * 3
    assert np.array_equal(made[2]["a"], a[2:])
    assert np.array_equal(made[1]["b"], b[1:2])


@pytest.mark.parametrize(
    ("dims", "shape"), [(["N", "N"], (70, 70)), (["N + 1", 4], (71, 4)), (["edges", 2], (99, 2)), (["N", 4], (70, 4))]
)
def test_what_is_tied_to_other_sizes_is_one_feed(dims: list[int | str], shape: tuple[int, ...]) -> None:
    model = builders.build("g (float[N, 3] a) => (float[N, 3] y) { y = Identity(a) }", {})
    model.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, dims))
    made = feeds(model, {"a": builders.random(70, 3), "b": builders.random(*shape)})
    assert [len(feed["a"]) for feed in made] == ([64, 6] if dims == ["N", 4] else [70])
    assert sum(len(feed["b"]) for feed in made) == shape[0]


@pytest.mark.parametrize("name", ["None", "unknown", "?", ""])
def test_names_that_say_nothing_tie_nothing(name: str) -> None:
    model = builders.build("g (float[N, 3] a) => (float[N, 3] y) { y = Identity(a) }", {})
    shape = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [name, name, 3])
    model.graph.input[0].CopyFrom(shape)
    assert [feed["a"].shape for feed in feeds(model, {"a": builders.random(70, 9, 3)})] == [(64, 9, 3), (6, 9, 3)]
    assert divisible(input_specs(model))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"a": (3, 4)}, "lacks input b"),
        ({"a": (3, 4), "b": (2, 4)}, "different numbers of samples"),
        ({"a": (3, 5), "b": (3, 4)}, "a has shape 3x5"),
        ({"a": (3, 4), "b": (4,)}, "b has shape 4"),
        ({"a": (0, 4), "b": (0, 4)}, "fewer samples"),
        ({"a": (1, 1, 1, 4), "b": (1, 4)}, "a has shape"),
    ],
    ids=str,
)
def test_data_that_does_not_fit(data: dict[str, tuple[int, ...]], said: str) -> None:
    model = builders.build("g (float[1, 4] a, float[1, 4] b) => (float[1, 4] y) { y = Add(a, b) }")
    with pytest.raises(oc.InputError, match=said):
        feeds(model, {name: np.zeros(shape, dtype=np.float32) for name, shape in data.items()})


def test_data_is_read_from_npz_and_takes_the_models_type(tmp_path: Path) -> None:
    data = np.arange(16).reshape(2, 8)
    np.savez(tmp_path / "d.npz", x=data)
    made = feeds(relu("N, 8"), tmp_path / "d.npz")[0]["x"]
    assert made.dtype == np.float32
    assert np.array_equal(made, data)


def test_unreadable_data_names_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_text("hello")
    with pytest.raises(oc.InputError, match=r"d\.npz.*\bx\b"):
        feeds(relu("N, 8"), tmp_path / "d.npz")


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN])
def test_short_floats_come_back_from_a_file_as_their_bytes(kind: int, tmp_path: Path) -> None:
    model = relu("N, 8")
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = kind
    data = np.arange(16).reshape(2, 8).astype(helper.tensor_dtype_to_np_dtype(kind))
    np.savez(tmp_path / "d.npz", x=data)
    made = feeds(model, tmp_path / "d.npz")[0]["x"]
    assert made.dtype == data.dtype
    assert np.array_equal(made.astype(np.float32), data.astype(np.float32))


@pytest.mark.parametrize("dtype", ["V2", "V4", "f4,i4"])
def test_bytes_are_no_numbers(dtype: str) -> None:
    with pytest.raises(oc.InputError, match="not numbers: pass an array of float32"):
        feeds(relu("N, 8"), {"x": np.zeros((2, 8), dtype=dtype)})


# ---------------------------------------------------------------------- what cannot be generated


IDS = """g (int64[N, L] ids, bool[N, L] mask) => (float[N, L, 4] y) {
    i = Add(ids, far) e = Gather(t, i) f = Cast<to = 1>(mask) u = Unsqueeze(f, ax) y = Mul(e, u)
}"""
TIED = """g (float[N, A] a, float[N, B] b) => (float[N, C] y) {
    c = Concat<axis = 1>(b, b, b) d = Concat<axis = 1>(a, a, b, a, one) y = Add(c, d)
}"""


def test_a_vocabulary_and_a_mask_get_the_line_that_writes_inputs() -> None:
    model = builders.build(IDS, {"far": np.array([104]), "t": builders.random(105, 4), "ax": np.array([2])})
    with pytest.raises(oc.InputError) as caught:
        feeds(model)
    arrays = "'ids': n.zeros((16, 64), 'int64'), 'mask': n.ones((16, 64), 'bool')"
    line = f"python -c \"import numpy as n; n.savez('inputs.npz', **{{{arrays}}})\""
    assert f"--data inputs.npz; {line} writes plain ones that run: put yours in their place" in str(caught.value)


def test_lengths_that_are_tied_get_the_option_and_the_line() -> None:
    with pytest.raises(oc.InputError) as caught:
        feeds(builders.build(TIED, {"one": builders.random(16, 1)}))
    arrays = "'a': n.ones((16, 64), 'float32'), 'b': n.ones((16, 64), 'float32')"
    line = f"python -c \"import numpy as n; n.savez('inputs.npz', **{{{arrays}}})\""
    assert f"as --input-shape a=16x64, or inputs with --data inputs.npz, written as {line} does" in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "said"), [("float x", r"give inputs that fit with --data.*'x': n.ones\(\(\)"), ("", "damaged")]
)
def test_where_no_size_is_to_be_found_none_is_asked_for(inputs: str, said: str) -> None:
    text = f"g ({inputs}) => (float[N, 3] y) {{ g = Gather(w, far) y = Add(g, {'x' if inputs else 'w'}) }}"
    with pytest.raises(oc.InputError, match=said):
        feeds(builders.build(text, {"w": builders.random(2, 3), "far": np.array([104])}, check=False))


@pytest.mark.parametrize(
    ("shapes", "samples", "batch", "size"),
    [([], 1, 1, 1), ([()], 1, 1, 1), ([(4, 2), (9,)], 4, 9, 2), ([(), (3, 2)], 3, 3, 2), ([(1, 7), (5, 7)], 1, 5, 7)],
)
def test_samples_are_those_of_the_first_input_with_an_axis(
    shapes: list[tuple[int, ...]], samples: int, batch: int, size: int
) -> None:
    """A table that all samples share may be longer."""
    feed = {str(number): np.zeros(shape) for number, shape in enumerate(shapes)}
    assert (samples_in(feed), batch_in(feed), sample_size(feed)) == (samples, batch, size)
