"""The tables of options, in Markdown, from the fields that state them: python tools/options_table.py [COMMAND]."""

from __future__ import annotations

import argparse
import sys
from itertools import groupby

from onnx_condense.cli.arguments import Command, OptionRow
from onnx_condense.cli.commands import COMMANDS


def options_table(command: Command) -> str:
    """One table per heading of the command's help."""
    return "\n\n".join(
        _table(group, list(rows)) for group, rows in groupby(command.rows(), key=lambda row: row.heading)
    )


def _table(heading: str, rows: list[OptionRow]) -> str:
    lines = [f"| {heading} | what it does | default |", "|---|---|---|"]
    for row in rows:
        written = f"`{row.option} {row.value}`".replace(" `", "`").replace("|", r"\|")
        lines.append(f"| {written} | {row.help.replace('|', chr(92) + '|')} | {row.unset} |")
    return "\n".join(lines)


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="the options of a command, in Markdown")
    parser.add_argument("command", nargs="?", default="", choices=list(COMMANDS), help="none: the program itself")
    print(options_table(COMMANDS[parser.parse_args().command]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
