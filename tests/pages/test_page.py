"""Pages: one file that fetches nothing, whose numbers are those of the JSON and whose names are data."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import builders
from support.attention import WIDTH, Attention
from support.cli import Cli, Save
from support.streams import Stream

from onnx_condense import Options, condense, extras
from onnx_condense.errors import UsageError
from onnx_condense.pages.page import LARGEST, check_installed, page
from onnx_condense.pages.words import at, command
from onnx_condense.planning.latencies import SetupLatency, TargetReport
from onnx_condense.report.formats import encoded
from onnx_condense.timing.fusions import Fusion

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

NASTY = "a<script>alert(1)</script>&\"'$x_{1}$`{{ 7*7 }}\x1b[31m\n\u202e--><!--</svg></style>]]>#0a0b0c"
VOID = {"meta", "link", "br", "input", "wbr"}


class Read(HTMLParser):
    """A page: what it holds, and whether every element is closed where it was opened."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: dict[str, tuple[str, str]] = {}
        self.said: list[str] = []
        self.feed(data.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)
        tag, given = self.tags[-1] if self.tags else ("", {})
        if tag == "data" and self.open[-1] == "data":
            self.numbers[str(given["data-at"])] = (str(given["value"]), data)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.tags if name == tag]


def both(cli: Cli, *arguments: str) -> tuple[Read, dict[str, Any]]:
    """The page and the JSON of one run."""
    cli.ok(*arguments, "--report", "r.html", "--report", "r.json")
    content: dict[str, Any] = json.loads(Path("r.json").read_text())
    return Read(Path("r.html").read_bytes()), content


def check(read: Read, content: dict[str, Any], *pointers: str) -> None:
    """Numbers of the page are those of the document; nothing is fetched; readers of screens find their way."""
    assert set(pointers) <= read.numbers.keys()
    for pointer, (value, _) in read.numbers.items():
        assert json.loads(value) == at(pointer, content), pointer
    for tag, given in read.tags:
        assert not given.keys() & {"src", "srcset", "action", "style-src"}, tag
        for key in given.keys() & {"href", "xlink:href"}:
            assert str(given[key]).startswith(("#", "data:"))
    assert not {"script", "iframe", "object", "img"} & {tag for tag, _ in read.tags}
    identifiers = [given["id"] for _, given in read.tags if "id" in given]
    assert len(identifiers) == len(set(identifiers))
    assert len(read.of("table")) == len(read.of("caption"))
    assert all(given.get("scope") in ("col", "row") for given in read.of("th"))
    assert not any("font-family" in str(given.get("style")) for given in read.of("text"))
    assert all(given.get("aria-label") and given.get("role") == "img" for given in read.of("svg"))
    assert (len(read.of("h1")), len(read.of("main"))) == (1, 1)


def test_a_run(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    read, content = both(cli, "m.onnx", "--threshold", "0.9", "--align", "4")
    check(
        read, content, "/input/parameters", "/output/bytes", "/groups/0/width_after", "/verification/outputs/0/max_abs"
    )
    assert f"{content['output']['parameters']:,}" == read.numbers["/output/parameters"][1]
    for words in ("times smaller", content["input"]["sha256"], content["output"]["sha256"]):
        assert words in read.text
    assert "onnx-condense m.onnx --threshold 0.9 --align 4" in read.text
    groups = content["groups"]
    drawn = [f"{g['width_before']} → {g['width_after']}" for g in groups if g["width_after"] < g["width_before"]]
    assert all(change in read.text for change in drawn)
    assert all(refusal["reason"] in read.text for refusal in content["refusals"])
    place, removed = next((place, g["removed"]) for place, g in enumerate(groups) if g["removed"])
    assert {f"/groups/{place}/removed/{reason}" for reason in removed} <= read.numbers.keys()
    for place, row in enumerate(content["operators"]):
        assert row["operator"] in read.text
        assert f"/operators/{place}/parameters_after" in read.numbers


def test_what_else_could_be_asked_for(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, noise=0.2))
    read, content = both(cli, "m.onnx")
    assert content["alternatives"]
    check(read, content, "/alternatives/0/parameters", "/alternatives/0/error")
    assert all(one["option"] in read.text for one in content["alternatives"])


def test_pairs_of_factors(cli: Cli, save: Save) -> None:
    low = builders.random(40, 2) @ builders.random(2, 30, seed=1)
    text = "g (float[N, 40] x) => (float[N, 30] y, float[N, 3] z) { [low] y = MatMul(x, w) [small] z = MatMul(x, v) }"
    save(builders.build(text, {"w": low, "v": builders.random(40, 3)}))
    read, content = both(cli, "m.onnx", "--lossless")
    check(read, content, "/pairs/0/rank", "/pairs/0/full")
    content["pairs"][0] |= {"frequent": 7, "rare": 1}
    check(Read(page(content)), content, "/pairs/0/frequent", "/pairs/0/rare")
    read, content = both(cli, "inspect", "m.onnx", "--force")
    check(read, content, "/pairs/0/pays", "/pairs/0/ranks/0.95", "/with_pairs", "/whole/0/parameters")
    assert content["whole"][0]["reason"] in read.text


def test_whole_heads(cli: Cli, save: Save) -> None:
    attention = Attention({"q": 4, "k": 4, "v": 4})
    for values in (attention.rows["v"], attention.bias["v"]):
        values[WIDTH : 2 * WIDTH] = 0
    save(attention.model())
    read, content = both(cli, "inspect", "m.onnx")
    check(read, content, "/heads/0/before", "/heads/0/after")
    assert "left by --lossless" in read.text
    read, content = both(cli, "m.onnx", "--lossless", "--dry-run", "--force")
    assert "whole heads would leave attention" in read.text
    read, content = both(cli, "m.onnx", "--lossless", "--force")
    check(read, content, "/heads/0/before", "/heads/0/after")
    assert (read.numbers["/heads/0/before"][1], read.numbers["/heads/0/after"][1]) == ("4", "3")


def tied(rank: int) -> onnx.ModelProto:
    """A table of words, and its transpose, which makes logits."""
    words = builders.random(60, rank) @ builders.random(rank, 16, seed=1)
    text = """g (int64[N, 4] ids) => (float[N, 4, 60] y) {
        e = Gather(words, ids)
        h = LayerNormalization(e, scale, bias)
        y = MatMul(h, copy)
    }"""
    weights = {"words": words, "copy": words.T.copy(), "scale": np.ones(16), "bias": np.zeros(16)}
    return builders.build(text, {name: value.astype(np.float32) for name, value in weights.items()})


def test_tables_that_are_held_once(cli: Cli, save: Save) -> None:
    save(tied(16))
    for arguments in (("inspect", "m.onnx"), ("m.onnx", "--lossless", "--force")):
        read, content = both(cli, *arguments)
        check(read, content)
        assert content["ties"] == [{"table": "words", "copies": ["copy"], "rank": None}]
        assert "the constants that they also make" in read.text
    save(tied(5), "m.onnx")
    read, content = both(cli, "m.onnx", "--lossless", "--force")
    check(read, content, "/ties/0/rank")


def test_streams_in_fewer_directions(cli: Cli, save: Save) -> None:
    save(Stream("layer").model())
    for arguments in (("inspect", "m.onnx"), ("m.onnx", "--lossless", "--force")):
        read, content = both(cli, *arguments)
        check(read, content, "/streams/0/width", "/streams/0/rank")
        assert read.numbers["/streams/0/rank"][1] == "6"


def test_a_search(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    read, content = both(cli, "m.onnx", "--budget", "error=0.2", "--trials", "3")
    check(read, content, "/search/candidates/1/value", "/search/evaluations")
    assert "the Pareto front" in read.text
    assert "--budget error=0.2 --trials 3" in read.text
    assert read.text.count("error=0.2") == 2  # and among the options


def test_a_latency_that_was_asked_for(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    _, content = both(cli, "m.onnx", "--dry-run")
    raced, fused = SetupLatency(1, 4, 0.58, 0.55, 0.61), (Fusion("FusedConv", 3, 2),)
    target = TargetReport(0.6, 0.62, raced, 2, False, 0.1, 1, 4, "m.onnx", {}, 1.0, fused)
    found = content | {"target": asdict(target)}
    read = Read(page(found))
    check(read, found, "/target/share", "/target/predicted", "/target/measured/high")
    assert "at batch 4 on 1 thread" in read.text
    assert "FusedConv 3 → 2" in read.text
    found = content | {"target": asdict(replace(target, measured=None, threads=0))}
    assert "not measured here" in Read(page(found)).text


def test_a_dry_run(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    read, content = both(cli, "m.onnx", "--dry-run")
    check(read, content, "/groups/0/width_after")
    assert "no model was written" in read.text


def test_other_commands(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    cli.ok("m.onnx")
    read, content = both(cli, "inspect", "m.onnx", "--force")
    check(read, content, "/model/macs", "/groups/0/widths/0.88")
    read, content = both(cli, "verify", "m.onnx", "m.condensed.onnx", "--tolerance", "1", "--force")
    check(read, content, "/worst", "/outputs/0/relative_l2")
    assert "m.condensed.onnx" in read.text
    read, content = both(cli, "diff", "m.onnx", "m.condensed.onnx", "--force")
    check(read, content, "/parameters/1", "/layers/0/parameters_after")
    read, content = both(cli, "bench", "m.onnx", "m.condensed.onnx", "--seconds", "0.1", "--profile", "--force")
    check(read, content, "/batches/0/models/1/ratio", "/batches/0/models/0/median")


def test_a_comparison_above_the_tolerance_is_reported(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4), seed=7), "other.onnx")
    outcome = cli.run("verify", "m.onnx", "other.onnx", "--report", "r.html")
    assert (outcome.code, outcome.written) == (1, {"r.html"})
    assert "more than the tolerance" in Read(Path("r.html").read_bytes()).text


def test_the_same_document_gives_the_same_bytes(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    _, content = both(cli, "inspect", "m.onnx")
    assert page(content) == Path("r.html").read_bytes() == encoded(Path("X.HTML"), content)


def test_the_cosines_of_a_group_in_order(cli: Cli, save: Save) -> None:
    """The paper's figure 4: blocks of copies along the diagonal before, none after; numbers are planted."""
    model = builders.mlp((4, 8, 8, 3), clusters=(5, 4))
    result = condense(model, Options(threshold=0.9))
    assert [len(one.kept) for one in result.cosines] == [8, 8]
    for one in result.cosines:
        kept = one.kept.astype(bool)
        left = one.table[np.ix_(kept, kept)] - np.eye(int(kept.sum()))
        assert left.max() <= 0.9
        first = np.flatnonzero(kept)
        sizes = np.diff(np.append(first, len(kept)))
        assert list(sizes) == sorted(sizes, reverse=True)
        for start, size in zip(first, sizes, strict=True):
            assert (one.table[start, start : start + size] > 0.9).all()
    save(model)
    read, content = both(cli, "m.onnx", "--threshold", "0.9")
    assert "Channels that are alike" in read.text
    assert "cosines" not in content


def renamed(content: Any, name: str) -> Any:
    """A document in which every text that comes from a model is another one."""
    keep = {"format", "version", "tool", "host", "sha256", "measure", "method", "seconds"}
    if isinstance(content, dict):
        return {key: value if key in keep else renamed(value, name) for key, value in content.items()}
    if isinstance(content, list):
        return [renamed(value, name) for value in content]
    return name if isinstance(content, str) else content


def test_names_are_data(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    for arguments in (("m.onnx", "--budget", "error=0.2", "--trials", "2"), ("inspect", "m.onnx", "--force")):
        _, content = both(cli, *arguments)
        nasty = renamed(content, NASTY) | {"warnings": [NASTY]}
        data = page(nasty)
        read = Read(data)
        check(read, nasty)
        assert "<script>alert(1)</script>&\"'$x_{1}$`{{ 7*7 }}\\x1b[31m\\n\\u202e" in read.text
        assert "#0a0b0c" in read.text


def test_a_page_of_a_large_model_is_small(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    _, content = both(cli, "m.onnx")
    name = "/encoder/layer_17/attention/self/" * 8
    group, refusal = content["groups"][0] | {"layers": [name] * 5}, content["refusals"][0] | {"layers": [name] * 9000}
    content |= {"groups": [group] * 1500, "refusals": [refusal] * 40, "warnings": [name * 100] * 50}
    data = page(content)
    assert len(data) < LARGEST
    assert "of 1500 rows; the JSON report has all" in Read(data).text


def test_numbers_that_are_not_known(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    _, content = both(cli, "m.onnx", "--budget", "error=0.2", "--trials", "2")
    content["verification"] |= {"approximation_error": None, "surgery_error": None}
    content["search"]["candidates"][0]["value"] = None
    content["search"]["bound"] = None
    read = Read(page(content))
    check(read, content)
    assert "what its outputs lost is not known" in read.text


def test_the_command_names_every_option(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    given = ["m.onnx", "--threshold", "0.9", "--layer-threshold", "fc0=0.7", "--merge", "ratio"]
    given += ["--include", "fc*", "--tolerance", "9", "--input-shape", "x=2x4", "--sequential", "--seed", "3"]
    _, content = both(cli, *given)
    said = command(content)
    for option in ("--layer-threshold fc0=0.7", "--include 'fc*'", "--input-shape x=2x4", "--sequential", "--seed 3"):
        assert option in said
    _, other = both(cli, "m.onnx", "--lossless", "--force")
    assert command(other) == "onnx-condense m.onnx --lossless"


def test_what_is_missing_is_said_before_the_run(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    monkeypatch.setattr("onnx_condense.extras.find_spec", lambda name: None)
    for arguments in (("m.onnx",), ("inspect", "m.onnx"), ("verify", "m.onnx", "m.onnx"), ("bench", "m.onnx")):
        message = cli.fails(2, *arguments, "--report", "r.html")
        assert message == f"--report r.html needs jinja2 and matplotlib: {extras.command('report')}"
    with pytest.raises(UsageError, match="report"):
        check_installed("it")


def test_reports_are_protected_and_piped(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    Path("r.html").write_text("precious")
    for arguments in (("m.onnx",), ("verify", "m.onnx", "m.onnx"), ("bench", "m.onnx")):
        assert "--force" in cli.fails(2, *arguments, "--report", "r.html")
        assert "twice" in cli.fails(2, *arguments, "--report", "a.html", "--report", "a.html")
    assert "twice" in cli.fails(2, "verify", "m.onnx", "m.onnx", "--json", "--report", "-")
    assert json.loads(cli.ok("verify", "m.onnx", "m.onnx", "--report", "-").out)["met"] is True


def test_a_document_of_another_kind() -> None:
    with pytest.raises(UsageError, match="no page is made of plan"):
        page({"format": "onnx-condense-plan"})


def test_pages_name_no_address(cli: Cli, save: Save) -> None:
    save(builders.mlp((4, 8, 8, 3), clusters=(5, 4)))
    both(cli, "m.onnx")
    text = re.sub(r"data:image/png;base64,[\w+/=\s]+", "", Path("r.html").read_text())
    assert not re.findall(r"https?:|//[a-z]", text)
