"""What pages link to outside of docs/: pictures are taken along, other files are read at the repository's address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?\[[^\]]*\]\()\.\./([^)\s#]+)")
FOLDER = re.compile(r"(\[[^\]]*\]\()([\w/-]+)\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds the pictures that tools draw."""
    for path in sorted((ROOT / "tools").rglob("*.svg")):
        files.append(File.generated(config, f"pictures/{path.relative_to(ROOT / 'tools')}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links that lead out of docs/ into those of the site, or of the repository."""
    return FOLDER.sub(_folder, LINK.sub(_outside, markdown))


def _outside(link: re.Match[str]) -> str:
    start, path = link.groups()
    if start.startswith("!"):
        return f"{start}pictures/{path.removeprefix('tools/')}"
    return f"{start}{SOURCE}/blob/main/{path}"


def _folder(link: re.Match[str]) -> str:
    start, path = link.groups()
    return f"{start}{SOURCE}/tree/main/docs/{path})" if (DOCS / path).is_dir() else link[0]
