"""Files as Magika reads them, and which of them calibrate."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "magika" / "score.py"


@pytest.fixture
def score() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("size", [3, 512, 700, 9000])
def test_both_ends_of_a_file_are_read(score: dict[str, Any], size: int) -> None:
    content = bytes(np.random.default_rng(size).integers(33, 127, size, dtype=np.uint8))
    found = score["features"](b"\n \t" + content + b"  \n")
    first, last = (
        (content + b"  \n")[:512],
        (b"\n \t" + content)[-512:],
    )  # space goes where reading begins, and where it ends
    assert found.shape == (1024,)
    assert found[: len(first)].tolist() == list(first)
    assert found[1024 - len(last) :].tolist() == list(last)
    assert (found[len(first) : 1024 - len(last)] == 256).all()


def test_no_file_both_calibrates_and_tests(score: dict[str, Any], tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.{'py' if number % 3 else 'txt'}").write_text(f"{number}" * 80)
    (tmp_path / "small.py").write_text("1")
    score["files"].__globals__["FOLDERS"] = (tmp_path,)
    parts = [{path.name for path in score["files"](part)} for part in (0, 1)]
    assert not parts[0] & parts[1]
    assert [len(part) for part in parts] == [22, 22]
    assert "small.py" not in parts[0] | parts[1]
