"""Plans: what a run decided, frozen, as JSON, replayable on the model that it names."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from onnx_condense.documents import write_atomically
from onnx_condense.errors import PlanError

METHODS = ("lossless", "auto", "calibrated", "moments", "ratio", "delete")
FORMAT = "onnx-condense-plan"
VERSION = 1
INLINE = 256
"""Longer arrays go to an .npz beside the JSON, whose sha256 the JSON states."""


@dataclass(frozen=True)
class Read:
    """How one consumer reads the channels of a group, along one path.

    x_j = ratio[j] · x_main(j) + constant[j] for a removed channel j; 1 and 0 for channels that stay.

    Attributes:
        node, input: index of the consuming node in the graph, and of its weight among the node's inputs.
        path: which of the signals that this weight contracts (several after Concat), in order of first appearance.
        layer: the consumer's name, for people.
        ratio, constant: one number per channel of the group.
    """

    node: int
    input: int
    path: int
    layer: str
    ratio: tuple[float, ...]
    constant: tuple[float, ...]


class Evidence(StrEnum):
    """What the moments of a consumer's input follow from."""

    CALIBRATION = "calibration"
    """Inputs that were given."""
    BATCH_NORMALIZATION = "batch-normalization"
    """The means and deviations that the file states."""
    WEIGHTS = "weights"
    """Nothing states them: they are assumed to be what the weights make of noise."""


@dataclass(frozen=True, eq=False)
class Refit:
    """Explicit weights (W', b') of one consumer, which replace what the merges of its groups would fold into it.

    Or of a producer: the rows of the channels that stay are others then.

    Attributes:
        node, input: index of the node in the graph, and of its weight among the node's inputs.
        layer: its name, for people.
        source: what the moments of its input follow from.
        weight: W' in the weight's own layout, its contracted axis without the channels that go.
        shift: what is added to the bias, one number per row; empty for a consumer whose bias stays.
    """

    node: int
    input: int
    layer: str
    source: Evidence
    weight: np.ndarray[Any, Any]
    shift: np.ndarray[Any, Any]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Refit):
            return NotImplemented
        named = (self.node, self.input, self.layer, self.source) == (other.node, other.input, other.layer, other.source)
        return named and np.array_equal(self.weight, other.weight) and np.array_equal(self.shift, other.shift)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class GroupPlan:
    """What happens to one dependency group of n channels.

    Attributes:
        index: of the group in the trace.
        layers: names of its producers.
        main: [n] the channel that each one merges into: itself where it stays, -1 where it goes without one.
        cosine: [n] how alike each removed channel and its main channel are; 1 for the others.
        highest: the highest cosine between two channels of the group.
        held: channels that stay only because alignment undid their merges.
        reads: one per consumer and path.
    """

    index: int
    layers: tuple[str, ...]
    main: tuple[int, ...]
    cosine: tuple[float, ...]
    highest: float
    held: tuple[int, ...]
    reads: tuple[Read, ...]

    @property
    def width(self) -> int:
        """Channels before."""
        return len(self.main)

    @property
    def shrinks(self) -> bool:
        """Whether any channel goes."""
        return len(self.keep) < self.width

    @property
    def keep(self) -> tuple[int, ...]:
        """The channels that stay, ascending."""
        return tuple(i for i, m in enumerate(self.main) if m == i)


@dataclass(frozen=True)
class Plan:
    """All groups of a run. Applying it needs nothing but the model whose sha256 it names.

    Attributes:
        model_sha256: of the model file.
        method: "lossless", "auto", "calibrated", "moments", "ratio" or "delete".
        options: the options of the run, for people and for provenance.
        align: the width multiple of convolutions that was used, as measured on the host that planned.
        input_shapes: shapes of the graph inputs that the model was traced with.
        fold_batchnorm: whether BatchNormalization is folded in the file before.
        groups: the groups that shrink.
        refits: consumers and producers with explicit weights, in graph order.
    """

    model_sha256: str
    method: str
    options: Mapping[str, Any]
    align: int
    input_shapes: Mapping[str, tuple[int, ...]]
    fold_batchnorm: bool
    groups: tuple[GroupPlan, ...]
    refits: tuple[Refit, ...] = ()

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """The plan as a JSON object, and the long arrays that go beside it."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}

        def pack(key: str, values: Any) -> Any:
            array = np.asarray(values)
            if array.size <= INLINE:
                return array.tolist()
            arrays[key] = array
            return {"array": key}

        groups = []
        for number, group in enumerate(self.groups):
            reads = [
                {
                    "node": r.node,
                    "input": r.input,
                    "path": r.path,
                    "layer": r.layer,
                    "ratio": pack(f"{number}.{i}.ratio", r.ratio),
                    "constant": pack(f"{number}.{i}.constant", r.constant),
                }
                for i, r in enumerate(group.reads)
            ]
            groups.append(
                {
                    "index": group.index,
                    "layers": list(group.layers),
                    "main": pack(f"{number}.main", group.main),
                    "cosine": pack(f"{number}.cosine", group.cosine),
                    "highest": group.highest,
                    "held": list(group.held),
                    "reads": reads,
                }
            )
        refits = [
            {
                "node": r.node,
                "input": r.input,
                "layer": r.layer,
                "source": r.source,
                "weight": pack(f"refit.{number}.weight", r.weight),
                "shift": pack(f"refit.{number}.shift", r.shift),
            }
            for number, r in enumerate(self.refits)
        ]
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model_sha256": self.model_sha256,
            "method": self.method,
            "options": dict(self.options),
            "align": self.align,
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            "fold_batchnorm": self.fold_batchnorm,
            "groups": groups,
            "refits": refits,
        }
        return content, arrays

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes PLAN.json, and PLAN.npz beside it where arrays are long. Raises InputError."""
        path = Path(path)
        content, arrays = self.to_json()
        if arrays:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # type: ignore[arg-type]
            data = buffer.getvalue()
            beside = path.with_suffix(".npz")
            content["arrays"] = {"file": beside.name, "sha256": hashlib.sha256(data).hexdigest()}
            write_atomically(beside, data)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """Reads a plan. Raises PlanError when it is damaged or of another version."""
        path = Path(path)
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise PlanError(f"cannot read the plan {path} ({error.strerror}): check the path") from error
        except ValueError as error:
            raise PlanError(f"{path} is not JSON: write the plan again with --plan") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise PlanError(f"{path} is not a plan of version {VERSION}: write it again with --plan")
        try:
            named = content.get("arrays")
            arrays = _load_arrays(path.with_name(named["file"]), named["sha256"]) if named is not None else {}
            return Plan.from_json(content, arrays)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise PlanError(f"the plan {path} is damaged ({error}): write it again with --plan") from error

    @staticmethod
    def from_json(content: Mapping[str, Any], arrays: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for what `to_json` never writes."""

        def unpack(value: Any) -> tuple[Any, ...]:
            return tuple(arrays[value["array"]].tolist() if isinstance(value, dict) else value)

        def numbers(value: Any) -> np.ndarray[Any, Any]:
            array = np.asarray(arrays[value["array"]] if isinstance(value, dict) else value)
            _expect(
                array.dtype.kind in "fiV" and bool(np.isfinite(array.astype(float)).all()), "a weight is not finite"
            )
            return array

        _expect(content["method"] in METHODS, "unknown method")
        _expect(type(content["align"]) is int and content["align"] >= 1, "align is no number")
        _expect(isinstance(content["options"], dict), "options are no object")
        _expect(type(content["fold_batchnorm"]) is bool, "fold_batchnorm is not true or false")

        groups = tuple(
            GroupPlan(
                g["index"],
                tuple(g["layers"]),
                unpack(g["main"]),
                unpack(g["cosine"]),
                g["highest"],
                tuple(g["held"]),
                tuple(
                    Read(r["node"], r["input"], r["path"], r["layer"], unpack(r["ratio"]), unpack(r["constant"]))
                    for r in g["reads"]
                ),
            )
            for g in content["groups"]
        )
        for group in groups:
            _validate(group)
        _expect(len({g.index for g in groups}) == len(groups), "a group comes twice")
        refits = tuple(
            Refit(r["node"], r["input"], r["layer"], Evidence(r["source"]), numbers(r["weight"]), numbers(r["shift"]))
            for r in content.get("refits", ())
        )
        return Plan(
            content["model_sha256"],
            content["method"],
            content["options"],
            content["align"],
            {name: _sizes(shape) for name, shape in content["input_shapes"].items()},
            content["fold_batchnorm"],
            groups,
            refits,
        )


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _sizes(shape: Any) -> tuple[int, ...]:
    _expect(isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape), "a shape is no list of sizes")
    return tuple(shape)


def _validate(group: GroupPlan) -> None:
    """Raises ValueError where a group could not have come from a run."""
    n = group.width
    _expect(type(group.index) is int, "a group's index is no number")
    _expect(all(type(m) is int and -1 <= m < n for m in group.main), "a main channel is out of range")
    _expect(all(m == -1 or group.main[m] == m for m in group.main), "a main channel does not stay itself")
    _expect(bool(group.keep), "no channel stays")
    _expect(all(type(c) is int and 0 <= c < n for c in group.held), "a held channel is out of range")
    rows = [group.cosine, *(row for read in group.reads for row in (read.ratio, read.constant))]
    for row in rows:
        _expect(len(row) == n, "a row has the wrong length")
        _expect(all(type(v) in (int, float) and math.isfinite(v) for v in row), "a number is missing or not finite")


def _load_arrays(path: Path, digest: str) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"the plan needs its arrays {path.name} beside it ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise PlanError(f"{path.name} is not the file that the plan names: write the plan again with --plan")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
