"""What pages link to outside of docs/: pictures are taken along, other files are read at the repository's address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
LINK = re.compile(r"(!?\[[^\]]*\]\()\.\./([^)\s#]+)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds the pictures that tools draw."""
    for path in sorted((ROOT / "tools").glob("*.svg")):
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links that lead out of docs/ into those of the site, or of the repository."""
    return LINK.sub(_outside, markdown)


def _outside(link: re.Match[str]) -> str:
    start, path = link.groups()
    if start.startswith("!"):
        return f"{start}pictures/{Path(path).name}"
    return f"{start}{SOURCE}/blob/main/{path}"
