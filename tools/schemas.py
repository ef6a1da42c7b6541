"""Writes docs/schemas/*.json, the JSON Schemas of what --json and --report print, from the values themselves.

    python tools/schemas.py [--check]

--check writes nothing: exit code 1 where a schema is not that of the program.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import sys
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from _marks import ROOT

from onnx_condense.cli.several import Several
from onnx_condense.proving.compare import Verification
from onnx_condense.report.difference import Difference
from onnx_condense.report.values import Analysis, Report
from onnx_condense.timing.benchmark import Benchmark
from onnx_condense.timing.costs import Costs

FOLDER = ROOT / "docs" / "schemas"

DIALECT = "https://json-schema.org/draft/2020-12/schema"

NULLABLE: dict[str, Any] = {"type": ["number", "null"]}
"""A number: one that is not finite is null."""

POINT = {
    "type": ["object", "null"],
    "properties": {
        "model": {"type": "string"},
        "parameters": {"type": "integer"},
        "score": NULLABLE,
        "path": {"type": "string"},
    },
    "required": ["model", "parameters", "score"],
}
"""A model of `auto`, by its sha256."""

STATUS = {
    "phase": {"type": "string"},
    "running": {"type": "boolean"},
    "reason": {"type": ["string", "null"]},
    "ended": {"type": ["string", "null"]},
    "start": POINT,
    "now": POINT,
    "result": POINT,
    "criterion": NULLABLE,
    "layer_criterion": NULLABLE,
    "step_limit": {"type": "integer"},
    "reductions": {"type": "integer"},
    "steps": {"type": "integer"},
    "layer": {"type": ["array", "null"], "items": {"type": "string"}},
    "thresholds": {"type": "array", "items": {"type": "object", "required": ["layer", "threshold"]}},
    "rounds": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["criterion", "layer_criterion", "parameters", "score", "steps"],
        },
    },
    "reverts": {"type": "array", "items": {"type": "integer"}},
    "updated": {"type": "number"},
}
"""What `auto --status` says: no value of its own, but a dictionary."""


def schema(kind: Any) -> dict[str, Any]:
    """The schema of a type of a field."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema(one) for one in arguments]}
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": schema(arguments[0])}
        return {"type": "array", "prefixItems": [schema(one) for one in arguments], "items": False}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema(arguments[1])}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if dataclasses.is_dataclass(kind):
        return objects(kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"enum": [one.value for one in kind]}
    known = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    if kind is float:
        return dict(NULLABLE)
    return {"type": known[kind]} if kind in known else {}


def objects(kind: Any, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The schema of a dataclass, with the first line of what it says of itself."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: schema(hints[field.name]) for field in dataclasses.fields(kind)} | dict(more or {})
    text = (inspect.getdoc(kind) or "").splitlines()[0]
    return {"type": "object", "description": text, "properties": fields, "required": list(fields)}


def document(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a document: its head, and what follows it. Fields may be added in a version, none may go."""
    head = {
        "format": {"const": f"onnx-condense-{name}"},
        "version": {"const": 1},
        "tool": {"type": "object", "required": ["name", "version"]},
        "host": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    properties = head | dict(content["properties"])
    named = {"$schema": DIALECT, "title": f"onnx-condense-{name}"}
    return named | dict(content) | {"properties": properties, "required": [*head, *content["required"]]}


def schemas() -> dict[str, dict[str, Any]]:
    """By the name of a format."""
    verdict = {"worst": NULLABLE, "tolerance": NULLABLE, "met": {"type": ["boolean", "null"]}}
    verdict["models"] = {"type": "array", "items": {"type": "string"}}
    status = {"type": "object", "properties": STATUS, "required": list(STATUS)}
    found = {
        "report": objects(Report),
        "analysis": objects(Analysis),
        "verification": objects(Verification, verdict),
        "difference": objects(Difference),
        "benchmark": objects(Benchmark),
        "costs": objects(Costs),
        "several": objects(Several),
        "auto-status": status,
    }
    return {name: document(name, content) for name, content in found.items()}


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="the JSON Schemas of docs/schemas")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where one is stale")
    given = parser.parse_args()
    texts = {FOLDER / f"{name}.json": json.dumps(found, indent=1) + "\n" for name, found in schemas().items()}
    if given.check:
        stale = [path.name for path, text in texts.items() if not path.exists() or path.read_text() != text]
        print(f"stale: {', '.join(stale)}: python tools/schemas.py" if stale else "the schemas are the program's")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
