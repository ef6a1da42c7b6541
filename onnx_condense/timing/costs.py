"""Cost tables: what the layers of a model take on a machine, at the widths that were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnx_condense.documents import check_regular, head
from onnx_condense.errors import InputError
from onnx_condense.expected import is_number

FORMAT = "onnx-condense-costs"
VERSION = 1

LONGEST = 1e9
"""Seconds: some 30 years."""

TINY = 1e-9
"""Seconds that anything takes."""

STEEPEST = 2.0
"""Seconds that narrower models save for each second that their layers save, beyond which these tell nothing."""

MAKE = "make one with onnx-condense bench --costs FILE MODEL"

Point = tuple[tuple[int, ...], float]
"""Widths of groups, and seconds."""


@dataclass(frozen=True)
class LayerCosts:
    """What a linear layer and the nodes that follow it take.

    layer: its name. groups: the groups whose channels it makes, carries or reads. points: the widths of those, and
    seconds; the first ones are the original's.
    """

    layer: str
    groups: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class WholeCost:
    """A whole model: seconds in its layers, as they were timed one by one, and seconds of a run."""

    layers: float
    seconds: float


@dataclass(frozen=True)
class Costs:
    """A cost table.

    Attributes:
        model: what was measured.
        machine: where.
        threads: of onnxruntime; 0: all cores. batch: samples per run.
        groups: by name, the widths that were measured, the original's first.
        layers: those whose cost depends on the width of a group.
        wholes: the original first, then narrower ones.
        gain: seconds that a race found to be saved, for each that the table says; 1 where there was no race.
    """

    model: str
    machine: Mapping[str, str]
    threads: int
    batch: int
    groups: Mapping[str, tuple[int, ...]]
    layers: tuple[LayerCosts, ...]
    wholes: tuple[WholeCost, ...]
    gain: float = 1.0

    @property
    def line(self) -> tuple[float, float]:
        """Seconds of a model for each second in its layers, and what it takes beside them: through the original's."""
        first, slope = self.wholes[0], self._slope
        if slope <= 0:
            slope = first.seconds / max(first.layers, TINY)
        return slope, first.seconds - slope * first.layers

    @property
    def explains(self) -> bool:
        """Whether its layers, timed one by one, tell what whole models take; not where threads wait for one another."""
        return len(self.wholes) < 2 or 0 < self._slope <= STEEPEST

    @property
    def _slope(self) -> float:
        """Seconds that narrower models save for each that their layers save: least squares of shares of their time."""
        first, down, across = self.wholes[0], 0.0, 0.0
        for one in self.wholes[1:]:
            layers, seconds, weight = first.layers - one.layers, first.seconds - one.seconds, max(one.seconds, TINY)
            across += layers * seconds / weight**2
            down += layers * layers / weight**2
        return across / down if down > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The table as a JSON object."""
        return head("costs", VERSION) | asdict(self)

    def encoded(self) -> bytes:
        """The table as a file holds it."""
        return (json.dumps(self.to_json(), indent=1) + "\n").encode()

    def corrected(self, gain: float) -> Costs:
        """The same with another gain."""
        return replace(self, gain=gain)

    @staticmethod
    def load(path: Path) -> Costs:
        """Reads a table. Raises InputError for what is none, or one of another version."""
        try:
            check_regular(path)
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read the cost table {path} ({error.strerror}): check the path") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no cost table (it is no JSON): {MAKE}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{path} is no cost table: {MAKE}")
        if content.get("version") != VERSION:
            said = content.get("version")
            raise InputError(f"the cost table {path} is of version {said}, this program reads {VERSION}: {MAKE}")
        try:
            return _read(content)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"the cost table {path} is damaged ({error}): {MAKE}") from error


def _read(content: Mapping[str, Any]) -> Costs:
    """A table from JSON. Raises LookupError, TypeError, AttributeError, ValueError for what `to_json` never writes."""
    groups = {str(name): tuple(map(_count, widths)) for name, widths in content["groups"].items()}
    if not all(widths and widths[0] == max(widths) for widths in groups.values()):
        raise ValueError("the widths of a group do not begin with the original's")
    layers = tuple(_layer(one, groups) for one in content["layers"])
    wholes = tuple(WholeCost(_seconds(one["layers"]), _seconds(one["seconds"])) for one in content["wholes"])
    if not wholes or not wholes[0].seconds:
        raise ValueError("it does not say what the whole model takes")
    machine = {str(name): str(value) for name, value in content["machine"].items()}
    threads, batch = _count(content["threads"], 0), _count(content["batch"])
    gain = _seconds(content["gain"])
    if not gain:
        raise ValueError("its gain is 0")
    return Costs(str(content["model"]), machine, threads, batch, groups, layers, wholes, gain)


def _layer(content: Mapping[str, Any], groups: Mapping[str, Sequence[int]]) -> LayerCosts:
    names, layer = tuple(map(str, content["groups"])), str(content["layer"])
    points = tuple((tuple(map(_count, widths)), _seconds(seconds)) for widths, seconds in content["points"])
    if not points or points[0][0] != tuple(groups[name][0] for name in names):
        raise ValueError(f"what {layer} takes as it is is missing")
    for widths, _ in points:
        if len(widths) != len(names) or any(w not in groups[n] for w, n in zip(widths, names, strict=True)):
            raise ValueError(f"{layer} has widths that its groups do not have")
    return LayerCosts(layer, names, points)


def _count(value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{value!r} is no count")
    return value


def _seconds(value: Any) -> float:
    if not is_number(value) or not 0 <= value <= LONGEST:
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)
