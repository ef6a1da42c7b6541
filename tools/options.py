"""Fills docs/options.md from the commands themselves: one table for each, with its options by heading.

    python tools/options.py [--check]

--check writes nothing: exit code 1 where the tables are not those of the commands.
"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby

from _marks import fill, filled

from onnx_condense.cli.arguments import PROGRAM, Command, OptionRow
from onnx_condense.cli.commands import COMMANDS


def section(command: Command) -> list[str]:
    """A heading, what the command does, and its options."""
    lines = [f"## {' '.join((PROGRAM, command.name)).strip()}", "", command.description, ""]
    lines += ["| option | without it | what it does |", "|---|---|---|"]
    for group, rows in groupby(command.rows(), key=lambda row: row.heading):
        lines += [f"| **{group}** | | |", *map(line, rows)]
    return [*lines, "", *([command.epilog, ""] if command.epilog else [])]


def line(row: OptionRow) -> str:
    """One option; bars in a cell are escaped."""
    cells = (f"`{row.option} {row.value}`" if row.value else f"`{row.option}`", row.unset, row.help)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="the tables of docs/options.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table is stale")
    given = parser.parse_args()
    lines = ["", *(line for command in COMMANDS.values() for line in section(command))]
    if given.check:
        fresh = filled("options") == lines
        print("the tables are those of the commands" if fresh else "docs/options.md is stale: python tools/options.py")
        return 0 if fresh else 1
    fill("options", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
