"""Tables: their columns by name or in order, and what is no number in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import builders
from support.given import Port

import onnx_condense as oc
from onnx_condense.data.reading import read

X = Port("x", ("N", 3))
PAIR = [Port("T", ("N", 1)), Port("y", ("N", 2))]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3\n4,5,6\n",
        "a,b,c\n1,2,3\n\n4,5,6\n",
        "\ufeffx_0;x_1;x_2;target\n1;2;3;none\n4;5;6;\n",
        "x[2]\tx[0]\tx[1]\n3\t1\t2\n6\t4\t5\n",
        '"x.1","x.2","x.3"\n"1","2","3"\n4,5,6',
        "  1 2  3\r\n4 5 6\r\n",
    ],
)
def test_the_columns_of_an_input(text: str) -> None:
    Path("d.csv").write_text(text, encoding="utf-8", newline="")
    (found,) = read([X], "d.csv")
    assert np.array_equal(found.arrays["x"], [[1, 2, 3], [4, 5, 6]])


def test_columns_of_several_inputs() -> None:
    Path("d.csv").write_text("y_1,T,y_0,name\n1,2,3,a\n4,5,6,b\n")
    (found,) = read(PAIR, "d.csv")
    assert np.array_equal(found.arrays["T"], [[2], [5]])
    assert np.array_equal(found.arrays["y"], [[3, 1], [6, 4]])


@pytest.mark.parametrize("dims", [("N", 1, 2, 2), (2, 2), (1, 4), ("N", "F")])
def test_a_row_takes_the_shape_of_a_sample(dims: tuple[int | str, ...]) -> None:
    Path("d.csv").write_text("1,2,3,4\n5,6,7,8\n")
    (found,) = read([Port("x", dims)], "d.csv")
    assert found.arrays["x"].shape[0] == 2
    assert np.array_equal(found.arrays["x"].reshape(2, 4), [[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("a,b,c\n", "holds names and no numbers"),
        ("a,b\n1,2\n", "has 2 columns (a, b) for x, the model wants x (?x3 float32)"),
        ("1,2,3,4\n", "has 4 columns (column 1, column 2, column 3, column 4) for x"),
        ("x_0,x_1,y\n1,2,3\n", "has 2 columns (x_0, x_1) for x"),
        ("a,b,c\n1,2,3\n4,,6\n", "line 3 of d.csv holds nothing, in b"),
        ("a;b;c\n1;2,5;3\n", "line 2 of d.csv holds '2,5', which is no number, in b"),
        ("1,2,3\n1,2\n", "line 2 of d.csv has 2 columns, the first has 3"),
        ("\0\xff", "pass a .csv in UTF-8"),
        (f'1,2,"{"x" * 200_000}"\n', "field larger than"),
        (f'1,2,3\n1,2,"{"x" * 200_000}"\n', "field larger than"),
    ],
)
def test_what_is_no_table_of_the_model(text: str, says: str) -> None:
    Path("d.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(oc.InputError) as caught:
        read([X], "d.csv")
    assert says in str(caught.value)
    assert "d.csv" in str(caught.value)


def test_parquet_by_columns_and_by_lists() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = builders.random(4, 3)
    columns = {f"x_{number}": rows[:, number] for number in range(3)}
    parquet.write_table(pyarrow.table(columns | {"name": ["a"] * 4}), "d.parquet")
    parquet.write_table(pyarrow.table({"x": rows.tolist(), "y": [1.0] * 4}), "lists.parquet")
    for name in ("d.parquet", "lists.parquet"):
        (found,) = read([X], name)
        assert np.allclose(found.arrays["x"], rows)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"a": [1.0], "b": [2.0]}, "has 2 columns (a, b) for x"),
        ({"x_0": ["a"], "x_1": ["b"], "x_2": ["c"]}, "x_0 of d.parquet is not numbers (string)"),
        ({"x": [[1.0], [1.0, 2.0]]}, "no lists of numbers of one length"),
    ],
)
def test_what_is_no_parquet_of_the_model(columns: dict[str, list[object]], says: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), "d.parquet")
    Path("cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(oc.InputError) as caught:
        read([X], "d.parquet")
    assert says in str(caught.value)
    with pytest.raises(oc.InputError, match=r"cannot read cut\.parquet"):
        read([X], "cut.parquet")
