"""Functions of the user: what they yield, and what becomes of their faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.given import Port

import onnx_condense as oc
from onnx_condense.data.reading import parts, read

X = Port("x", ("N", 3))
HEAD = "import numpy as np\nfrom beside import size\n\ndef f():\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/beside.py").write_text("size = 3\n")


def written(body: str) -> str:
    Path("a/loader.py").write_text(HEAD + "".join(f"    {line}\n" for line in body.split("\n")))
    return "a/loader.py:f"


def test_it_is_called_once_and_its_batches_are_joined() -> None:
    given = written("open('calls', 'a').write('x')\nfor n in (2, 3):\n    yield {'x': np.ones((n, size))}")
    (found,) = parts([X], given)
    assert [batch.arrays["x"].shape for batch in read([X], found)] == [(5, 3)]
    assert Path("calls").read_text() == "x"


def test_inputs_of_other_sizes_stay_apart() -> None:
    given = written("yield {'x': np.ones((2, 3))}\nyield {'x': np.ones((2, 4))}")
    assert [batch.arrays["x"].shape for batch in read([X], given)] == [(2, 3), (2, 4)]
    given = written("for n in range(2):\n    yield {'x': np.ones(()), 'y': np.ones((1, 3))}")
    assert len(read([Port("x", ()), Port("y", (1, 3))], given)) == 2


def test_what_it_prints_is_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    read([X], written("print('read')\nyield {'x': np.ones((2, 3))}"))
    assert capfd.readouterr() == ("", "read\n")


def test_one_dictionary_may_be_returned() -> None:
    assert np.array_equal(read([X], written("return {'x': np.ones((2, 3))}"))[0].arrays["x"], np.ones((2, 3)))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("yield 1 / 0", "a/loader.py:f fails (ZeroDivisionError: division by zero, line 5): mend it"),
        ("raise SystemExit('usage')", "fails (SystemExit: usage, line 5)"),
        ("yield (np.ones(3), 0)", "yields tuple, no dictionary of arrays: write yield {'x': ...}"),
        ("return 3", "int"),
        ("return []", "yields nothing"),
        ("yield {'y': np.ones((2, 3))}", "lacks input x: it holds y (2x3 float64)"),
        ("yield {'x': [[1], [1, 2]]}", "fails (ValueError"),
    ],
)
def test_its_faults_are_one_line(body: str, says: str) -> None:
    with pytest.raises(oc.InputError) as caught:
        read([X], written(body))
    assert says in str(caught.value)


def test_a_function_that_is_not_there() -> None:
    written("pass")
    with pytest.raises(oc.InputError, match=r"has no function g, it has f: name one of them"):
        read([X], "a/loader.py:g")
