"""Fills the marked places of the README."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def fill(mark: str, lines: list[str]) -> None:
    """Puts lines between <!-- mark --> and <!-- /mark --> of the README."""
    path = ROOT / "README.md"
    before, rest = path.read_text().split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- /{mark} -->")[1]
    path.write_text(f"{before}<!-- {mark} -->\n" + "\n".join(lines) + f"\n<!-- /{mark} -->{after}")
