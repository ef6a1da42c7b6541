"""Names of tensors: the one authority for fresh ones."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnx_condense.model.protos import names_in


class Names:
    """The names that are taken in a graph. Every name that it gives is taken from then on."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    @staticmethod
    def of(graph: onnx.GraphProto) -> Names:
        """The names of every tensor of a graph, of those in its bodies too."""
        return Names(names_in(graph))

    def fresh(self, stem: str) -> str:
        """The stem, or with a number, as a name that no tensor has."""
        name = unused_name(stem, self._taken)
        self._taken.add(name)
        return name


def unused_name(stem: str, taken: Iterable[str]) -> str:
    """The stem, or with a number, as a name that no tensor has."""
    known = set(taken)
    numbered = (f"{stem}_{i}" for i in range(1, len(known) + 2))
    return next(name for name in (stem, *numbered) if name not in known)
