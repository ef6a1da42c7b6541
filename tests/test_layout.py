"""Tests lie as the packages do, and know nothing that is private."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent

BESIDE = {"support", "golden", "docs", "tools"}
"""Folders of tests that mirror no package."""

PRIVATE = re.compile(r"_[a-z][a-z_]*$|_[A-Z]\w*$")


@cache
def trees() -> dict[str, ast.Module]:
    """Every file of tests, parsed."""
    return {str(path.relative_to(TESTS)): ast.parse(path.read_text()) for path in sorted(TESTS.rglob("test_*.py"))}


def test_folders_are_packages() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    packages = {path.parent.name for path in (ROOT / "onnx_condense").glob("*/__init__.py")}
    assert folders - BESIDE == packages


def private(tree: ast.AST) -> set[str]:
    """Private names that are imported, read from something else than `self`, or patched by name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {name for name in found if isinstance(name, str) and PRIVATE.match(name)} - {"_replace", "_repr_html_"}


def test_no_private_names() -> None:
    assert not {name for name, tree in trees().items() if private(tree)}


def test_no_test_imports_a_test() -> None:
    for name, tree in trees().items():
        parts = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules = {f"{node.module or ''}.{alias.name}" for node in parts for alias in node.names}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not [module for module in modules if "test_" in module], name
