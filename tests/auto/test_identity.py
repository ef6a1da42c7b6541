"""What a run knows of its inputs: their bytes, whatever form they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import builders
from support.given import FORMS

from onnx_condense import Images, Options, Pixels
from onnx_condense.auto.identity import begin_line
from onnx_condense.finetune import Settings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def known(given: Any) -> Any:
    return begin_line("m.onnx", 1, "", Settings(), Options(data=given), 1)["inputs"]["data"]


@pytest.mark.parametrize("form", FORMS)
def test_other_bytes_are_other_inputs(form: str, tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    first, same, other = (
        tmp_path / folder / FORMS[form](tmp_path / folder, builders.random(6, 8, seed=seed))
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert known(str(first)) == known(str(same))
    if form != "loader":  # known by its program, not by what that reads
        assert known(str(first)) != known(str(other))


def test_images_are_known_with_how_they_are_read(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(np.uint8([number]).tobytes())
    plain = known(Images(str(tmp_path), Pixels(mean=0, std=1)))
    assert len(plain) == 1
    assert plain == known(Images(".", Pixels(mean=0, std=1)))
    assert plain != known(Images(str(tmp_path), Pixels(mean=0.5, std=1)))
