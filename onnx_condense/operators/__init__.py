"""Operators: what each ONNX operator does to channels. No other floor but `forms` names an operator."""

__all__ = [
    "actions",
    "answers",
    "attention",
    "between",
    "classes",
    "facts",
    "moves",
    "nodes",
    "products",
    "queries",
    "ranges",
    "reasons",
    "specs",
    "table",
    "tables",
    "versions",
    "view",
    "wiring",
]
