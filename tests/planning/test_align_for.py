"""--align-for: widths for another host, and that the report says where the multiple comes from."""

from __future__ import annotations

import pytest
from support import builders
from support.cli import Cli, Save, read, widths

import onnx_condense as oc
from onnx_condense.merging.widths import Width
from onnx_condense.options import Host
from onnx_condense.planning import alignment


@pytest.mark.parametrize(("host", "multiple"), [("avx2", 8), ("avx512", 16), ("arm64", 4)])
def test_the_multiple_of_another_host(cli: Cli, save: Save, host: str, multiple: int) -> None:
    save(builders.convnet((3, 48), clusters=5))
    out = cli.ok("m.onnx", "--align-for", host, "--report", "r.json", "--plan", "p.json").out
    assert widths("r.json")["conv0"] == (48, -(-5 // multiple) * multiple)
    found = read("r.json")["alignment"]
    assert found["multiple"] == read("p.json")["align"] == multiple
    assert found["source"].startswith(f"--align-for {host}")
    assert ("not measured" in found["source"]) == (host == "arm64")
    assert f"multiples of {multiple} (--align-for {host}" in out


def test_every_host_has_a_multiple() -> None:
    assert tuple(alignment.ALIGNMENTS) == tuple(Host)


def test_who_says_so(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 48), clusters=5))
    width = alignment.block_width()
    host = cli.ok("m.onnx", "--plan", "p.json", "--report", "r.json").out
    assert (f"multiples of {width} (onnxruntime on this host)" in host) == (width > 1)
    assert read("r.json")["alignment"]["source"] == "onnxruntime on this host"
    assert "multiples of 12 (--align)" in cli.ok("m.onnx", "--align", "12", "--force", "--plan", "p.json").out
    assert "multiples of 12 (the plan)" in cli.ok("m.onnx", "--replay", "p.json", "--force").out
    assert "multiples of" not in cli.ok("m.onnx", "--align", "1", "--force").out


def test_a_host_says_how_wide_it_blocks() -> None:
    assert alignment.width_multiple(oc.Options(), lambda: 8) == (8, "onnxruntime on this host")
    assert alignment.width_multiple(oc.Options(align=3), lambda: 8) == (3, "--align")


def test_only_one_option_states_the_multiple(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 8), clusters=5))
    assert "--align" in cli.fails(2, "m.onnx", "--align-for", "avx2", "--align", "4")
    assert "--align-for" in cli.fails(2, "m.onnx", "--align-for", "mips")
    cli.ok("m.onnx", "--plan", "p.json")
    assert "--align-for" in cli.fails(2, "m.onnx", "--align-for", "avx2", "--replay", "p.json", "--force")
    with pytest.raises(oc.UsageError, match="align-for"):
        oc.Options(align_for="mips")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "units", "fits"),
    [
        (Width(0, 1, 1, True), 16, True),
        (Width(0, 1, 1, True), 12, False),
        (Width(4, 1, 1, True), 12, True),
        (Width(0, 4, 1, True), 4, True),
        (Width(0, 4, 4, True), 4, False),
        (Width(0, 4, 4, True), 16, True),
    ],
)
def test_each_head_or_convolution_group_is_aligned(width: Width, units: int, fits: bool) -> None:
    assert width.fits(units, 16) == fits
