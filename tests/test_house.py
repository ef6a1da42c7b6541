"""The house: floors are entered through the rooms that they name, operators are asked, rooms stay small."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import onnx
import pytest

from onnx_condense import errors
from onnx_condense.operators import actions, between, moves
from onnx_condense.operators.answers import Action

ROOT = Path(__file__).parents[1] / "onnx_condense"
FLOORS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))

OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas()} | {"FusedConv", "FusedGemm", "BiasGelu"}
ACTIONS = {
    name
    for room in (actions, between, moves)
    for name, kind in vars(room).items()
    if isinstance(kind, type) and issubclass(kind, Action)
}

ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
ARRAYS = re.compile(r"\b(Array|Floats|Ints|Bools|Labels)\b")
SHAPE = re.compile(r"\[[^\]]+\]|\bshapes?\b|\bscalar\b")

LINES = 400
FUNCTION_LINES = 60


@cache
def rooms() -> dict[Path, ast.Module]:
    """Every file of the package, parsed."""
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def face(floor: str) -> set[str]:
    """The rooms that a floor names."""
    named = rooms()[Path(floor, "__init__.py")].body[-1]
    assert isinstance(named, ast.Assign)
    return set(ast.literal_eval(named.value))


def entered(room: Path, tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(floor, room) of every room of another floor that a room imports from."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("onnx_condense."):
            continue
        _, floor, *inner = str(node.module).split(".")
        if floor in FLOORS and floor != room.parts[0]:
            yield from ((floor, name) for name in (inner or [alias.name for alias in node.names]))


@pytest.mark.parametrize("floor", FLOORS)
def test_a_face_names_rooms_that_there_are(floor: str) -> None:
    assert {path.stem for path in (ROOT / floor).glob("*.py")} > face(floor)


def test_a_floor_is_entered_through_the_rooms_that_its_face_names() -> None:
    found = {floor: set[str]() for floor in FLOORS}
    for room, tree in rooms().items():
        for floor, name in entered(room, tree):
            found[floor].add(name)
    for floor, names in found.items():
        assert names <= face(floor), floor


def asked(tree: ast.AST) -> Iterator[str]:
    """Names of operators that are written down, and of actions whose class is asked for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in OPERATORS:
            yield str(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            yield from {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)} & ACTIONS
        elif isinstance(node, ast.MatchClass) and ast.unparse(node.cls) in ACTIONS:
            yield ast.unparse(node.cls)


def test_operators_are_asked_not_named() -> None:
    for room, tree in rooms().items():
        if room.parts[0] not in ("operators", "forms", "pytorch"):
            assert not list(asked(tree)), room


def test_rooms_and_functions_are_small() -> None:
    for room, tree in rooms().items():
        assert len((ROOT / room).read_text().splitlines()) <= LINES, room
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, f"{room}: {node.name}"


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Functions and methods whose names, and whose classes' names, are public."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node.body)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def described() -> Iterator[tuple[Path, ast.FunctionDef, str]]:
    """Public functions with what they say of themselves; rows and answers are described where they are asked for."""
    for room, tree in rooms().items():
        for function in public(tree.body):
            text = ast.get_docstring(function)
            if text is not None or room.parts[0] != "operators":
                yield room, function, text or ""


def annotations(function: ast.FunctionDef) -> str:
    """What it takes and returns."""
    given = function.args
    taken = [a.annotation for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return " ".join(ast.unparse(kind) for kind in (*taken, function.returns) if kind is not None)


def test_functions_of_arrays_say_their_shapes() -> None:
    for room, function, text in described():
        if ARRAYS.search(annotations(function)):
            assert SHAPE.search(text), f"{room}: {function.name}"


def raised(function: ast.FunctionDef) -> set[str]:
    """Names of the errors that it raises itself."""
    inside = [node for node in ast.walk(function) if isinstance(node, ast.FunctionDef) and node is not function]
    inner = {id(node) for nested in inside for node in ast.walk(nested)}
    made = [n.exc for n in ast.walk(function) if isinstance(n, ast.Raise) and n.exc is not None and id(n) not in inner]
    return {ast.unparse(exc.func if isinstance(exc, ast.Call) else exc) for exc in made} & ERRORS


def test_functions_say_what_they_raise() -> None:
    for room, function, text in described():
        unsaid = [name for name in raised(function) if name not in text]
        assert not unsaid, f"{room}: {function.name}"
