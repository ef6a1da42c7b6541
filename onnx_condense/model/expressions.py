"""Names of dimensions that say how they follow from others: "past_sequence_length + sequence_length", "2 * n"."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

LONGEST = 200
"""Characters of a name that is read as an expression."""

UNSAID = {"none", "null", "unknown", "unk"}
"""Names, in small letters, that programs give to axes of which nothing is known: two of one name say nothing either."""

TOKEN = re.compile(r"[A-Za-z_]\w*|\d+(?!\w)|//|[-+*()]")

OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True, eq=False)
class Expression:
    """Sums, differences, products and whole quotients of names and numbers."""

    tree: ast.expr

    @property
    def names(self) -> set[str]:
        """The names that it follows from."""
        return {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}

    def at(self, sizes: Mapping[str, int]) -> int:
        """Its value; 0, which is no size, where it has none."""
        try:
            return _value(self.tree, sizes)
        except ZeroDivisionError:
            return 0


def expressions(names: Iterable[str]) -> dict[str, Expression]:
    """Those of the names that follow from others among them, or from nothing."""
    every = set(names)
    found = {name: parsed for name in every if (parsed := _parsed(name)) is not None}
    return {name: parsed for name, parsed in found.items() if parsed.names <= every - found.keys()}


def _parsed(text: str) -> Expression | None:
    """None of a plain name, and of what is not understood."""
    if len(text) > LONGEST or TOKEN.sub("", text).strip():
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return None
    return None if isinstance(tree, ast.Name) or not _is_understood(tree) else Expression(tree)


def _is_understood(tree: ast.expr) -> bool:
    match tree:
        case ast.BinOp(left, kind, right):
            return type(kind) in OPERATORS and _is_understood(left) and _is_understood(right)
        case ast.Constant(value):
            return type(value) is int
        case _:
            return isinstance(tree, ast.Name)


def _value(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    match tree:
        case ast.BinOp(left, kind, right):
            return OPERATORS[type(kind)](_value(left, sizes), _value(right, sizes))
        case ast.Constant(int(value)):
            return value
        case ast.Name(name):
            return sizes[name]
        case _:
            raise TypeError(f"no expression: {ast.dump(tree)}")
