"""The marked places of the documents: <!-- mark --> and <!-- /mark -->, with what a tool writes between them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def documents() -> list[Path]:
    """The README, and what is in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(mark: str) -> list[str]:
    """The lines between the marks."""
    return _parted(mark)[2].splitlines()


def fill(mark: str, lines: list[str]) -> None:
    """Puts lines between the marks."""
    path, before, _, after = _parted(mark)
    path.write_text(before + "".join(f"{line}\n" for line in lines) + after)


def _parted(mark: str) -> tuple[Path, str, str, str]:
    """The document that has the marks, and its text before, between and after them, which holds the marks."""
    start, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    path = next(path for path in documents() if start in path.read_text())
    before, rest = path.read_text().split(start)
    inside, after = rest.split(end)
    return path, before + start, inside, end + after
