"""Images: in the size, layout and type that the model states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import builders
from support.cli import Cli, Save
from support.given import Port

import onnx_condense as oc
from onnx_condense import Images, Pixels
from onnx_condense.data import reading, sources
from onnx_condense.data.reading import parts, read
from onnx_condense.data.wanted import Batch

Image = pytest.importorskip("PIL.Image")
PLAIN = Pixels(mean=0, std=1)
BYTE = np.dtype(np.uint8)


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pictures whose pixels are 0, 100 and 200 in red."""
    monkeypatch.chdir(tmp_path)
    Path("photos/cats").mkdir(parents=True)
    for number, place in enumerate(("photos/a.png", "photos/b.JPG", "photos/cats/c.png")):
        Image.new("RGB", (8, 6), (100 * number, 50, 0)).save(place)
    Path("photos/labels.txt").write_text("1 2 3")


def pixels(port: Port, given: Any = None) -> Any:
    (found,) = read([port], given if given is not None else "photos")
    return found.arrays[port.name]


def test_layouts_and_types() -> None:
    first = pixels(Port("x", ("N", 3, 5, 6), BYTE))
    assert first.shape == (3, 3, 5, 6)
    assert first[:, 0, 0, 0].tolist() == pytest.approx([0, 100, 200], abs=2)
    last = pixels(Port("x", (1, 5, 6, 3), BYTE))
    assert np.array_equal(np.moveaxis(last, -1, 1), first)
    floats = pixels(Port("x", (3, 5, 6)), Images("photos", Pixels(mean=0.5, std=(1, 1, 0.5))))
    assert floats.dtype == np.float32
    assert floats[2, :, 0, 0] == pytest.approx([200 / 255 - 0.5, 50 / 255 - 0.5, -1], abs=1e-6)
    assert pixels(Port("x", ("N", 1, 6, 8), BYTE)).shape == (3, 1, 6, 8)
    assert pixels(Port("x", ("N", 3, "H", "W"), BYTE), Images("photos", Pixels(image_size=7))).shape == (3, 3, 7, 7)
    assert pixels(Port("x", ("N", 3, 6, 8), BYTE), "photos/a.png").shape == (1, 3, 6, 8)


def test_many_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TOGETHER", 2)
    port = Port("x", ("N", 3, 4, 5))
    monkeypatch.setattr(reading, "HELD", 1)
    given = {holds: parts([port], Images("photos", PLAIN), holds) for holds in (True, False)}
    assert [type(part) for part in given[True]] == [Batch, Images]
    assert [type(part) for part in given[False]] == [Images, Images]
    for split in given.values():
        assert [batch.arrays["x"].shape[0] for part in split for batch in read([port], part)] == [2, 1]


@pytest.mark.parametrize(
    ("port", "given", "says"),
    [
        (Port("x", ("N", 3, 4, 5)), Pixels(), "images need --mean and --std, those of the training"),
        (Port("x", ("N", 3, 4, 5)), Pixels(mean=(0.1, 0.2), std=1), "--mean has 2 numbers, the images have 3 channels"),
        (Port("x", ("N", 3, 4, 5), BYTE), PLAIN, "takes pixels as they are (uint8)"),
        (Port("x", ("N", 3, 4, 5), np.dtype(np.int32)), Pixels(), "write loader.py:function"),
        (Port("x", ("N", 3, "H", "W"), BYTE), Pixels(), "give --image-size, as 224"),
        (Port("x", ("N", 3, 4, 5), BYTE), Pixels(image_size=(4, 4)), "--image-size 4x4 does not fit"),
        (Port("x", ("N", 3, 4, 3), BYTE), Pixels(), "does not say where it has channels"),
        (Port("x", ("N", "C", "H", "W"), BYTE), Pixels(), "--input-shape x=1x3x224x224"),
        (Port("x", ("N", 784)), Pixels(), "is none: write loader.py:function"),
    ],
)
def test_what_images_cannot_be(port: Port, given: Pixels, says: str) -> None:
    with pytest.raises(oc.CondenseError) as caught:
        pixels(port, Images("photos", given))
    assert says in str(caught.value)


def test_a_bad_image_is_named() -> None:
    Path("photos/cats/d.png").write_bytes(Path("photos/a.png").read_bytes()[:40])
    with pytest.raises(oc.InputError, match=r"cannot read photos/cats/d\.png"):
        pixels(Port("x", ("N", 3, 4, 5), BYTE))
    Image.new("I;16", (8, 6)).save("photos/cats/d.png")
    with pytest.raises(oc.InputError, match="more than 8 bits"):
        pixels(Port("x", ("N", 3, 4, 5), BYTE))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Pixels(mean=127.5), "divide those of 0 to 255 by 255"),
        (lambda: Pixels(std=(1, 0, 1)), "never 0"),
        (lambda: Pixels(image_size=(1, 2, 3)), "a positive whole number or two"),
    ],
)
def test_pixels_out_of_range(made: Any, says: str) -> None:
    with pytest.raises(oc.UsageError, match=says):
        made()


def test_the_command_line(cli: Cli, save: Save) -> None:
    save(builders.convnet())
    scale = ("--mean", "0.5", "--std", "0.25,0.25,0.25")
    cli.ok("m.onnx", "--data", "photos", *scale, "--dry-run")
    assert "images need --mean" in cli.fails(2, "m.onnx", "--calibration", "photos")
    assert "are for images" in cli.fails(2, "m.onnx", *scale)
    assert "wants 224 or 224x160" in cli.fails(2, "m.onnx", "--data", "photos", "--image-size", "0")
