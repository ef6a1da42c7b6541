"""The README and the documents say what is true: their options, links, files, tables, picture and example report."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.apart import apart

from onnx_condense import Options, condense

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md", ROOT / ".github" / "CONTRIBUTING.md"]
WORDS = {path: path.read_text() for path in DOCUMENTS}


def keys(value: Any) -> Any:
    """The structure of a JSON value without its leaves; of lists, the first element's."""
    if isinstance(value, dict):
        return {name: keys(item) for name, item in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else type(value).__name__


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_example_report_is_of_this_version() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", WORDS[ROOT / "docs" / "report.md"], re.S)
    report = condense(ROOT / "models" / "surrogate_h2.onnx", Options(threshold=0.95)).report.to_json()
    printed, fresh = json.loads(shown), json.loads(json.dumps(report))
    for content in (printed, fresh):
        content.pop("seconds")
        content["output"].pop("path")
    assert keys(printed) == keys(fresh)
    assert [g["width_after"] for g in printed["groups"]] == [g["width_after"] for g in fresh["groups"]]


@pytest.mark.parametrize("command", [(), ("inspect",), ("verify",), ("diff",), ("bench",), ("auto",)])
def test_every_option_is_in_the_documents(command: tuple[str, ...]) -> None:
    program = [sys.executable, "-m", "onnx_condense", *command, "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"})
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown.stdout))
    assert "--limit-memory" in options
    everything = "\n".join(WORDS.values())
    assert {text for text in options - {"--help", "--version", "--output"} if text not in everything} == set()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
URLS = PROJECT["project"]["urls"]
RAW = URLS["Source"].replace("github.com", "raw.githubusercontent.com")
ABSOLUTE = (f"{URLS['Source']}/blob/main/", f"{RAW}/main/")
"""How addresses of files of ours begin, where a page is read elsewhere than beside them."""

LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.M)

LINKS = [(path, one or other) for path, text in WORDS.items() for one, other in LINK.findall(text)]
LINKS = [(path, link) for path, link in LINKS if not link.startswith("http") or link.startswith(ABSOLUTE)]


@pytest.mark.parametrize(("path", "link"), LINKS, ids=[f"{path.name}:{link}" for path, link in LINKS])
def test_links_lead_somewhere(path: Path, link: str) -> None:
    absolute = next((start for start in ABSOLUTE if link.startswith(start)), "")
    name, _, anchor = link.removeprefix(absolute).partition("#")
    target = ((ROOT if absolute else path.parent) / name).resolve() if name else path
    assert target.exists()
    assert not anchor or anchor in slugs(target.read_text())


NAMED = sorted({name for text in WORDS.values() for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|json))`", text)})


SHOWN = {"metrics.json", "index.json", *re.findall(r'title="([^"]+)"', "\n".join(WORDS.values()))}
"""Files that a reader writes, or that a run does."""


@pytest.mark.parametrize("name", [name for name in NAMED if name not in SHOWN])
def test_files_that_documents_name_are_there(name: str) -> None:
    inside = (ROOT / "onnx_condense").rglob(name) if "/" not in name else [ROOT / "onnx_condense" / name]
    assert any(path.exists() for path in (ROOT / name, *inside))


@pytest.mark.parametrize("tool", ["architecture", "how_it_works", "options", "results", "schemas"])
def test_what_tools_write_is_fresh(tool: str, tmp_path: Path) -> None:
    done = apart("--check", cwd=tmp_path, script=ROOT / "tools" / f"{tool}.py")
    assert done.code == 0, done.out + done.err


def test_extras_and_groups_that_are_named_are_there() -> None:
    """In documents, in the container's file, in tools, and in what the package says."""
    places = [path for folder in ("tools", "onnx_condense", "docs/examples") for path in (ROOT / folder).rglob("*.py")]
    texts = [*WORDS.values(), *map(Path.read_text, places), (ROOT / "docs" / "examples" / "Containerfile").read_text()]
    everything = "\n".join(texts)
    extras = re.findall(r"(?:onnx-condense|\.|/source)\[([a-z,]+)\]'", everything)
    named = {name for found in extras for name in found.split(",")}
    assert named <= set(PROJECT["project"]["optional-dependencies"])
    assert set(re.findall(r"--group (\w+)", everything)) - {"NAME"} <= set(PROJECT["dependency-groups"])
    assert len(extras) > 5


def test_the_site_shows_every_document() -> None:
    config = (ROOT / "docs" / "site" / "mkdocs.yml").read_text()
    shown = re.findall(r"^ +- .*: (\S+\.md)$", config, re.M)
    assert sorted(shown) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_links_of_the_readme_are_absolute() -> None:
    """It is the page on PyPI, too."""
    assert not [link for path, link in LINKS if path == README and not link.startswith(ABSOLUTE)]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


TOOLS = [path for path in sorted((ROOT / "tools").glob("*.py")) if not path.name.startswith("_")]


@pytest.mark.parametrize("path", TOOLS, ids=[path.name for path in TOOLS])
def test_every_tool_states_its_command(path: Path) -> None:
    assert f"python tools/{path.name}" in (ast.get_docstring(ast.parse(path.read_text())) or "")
