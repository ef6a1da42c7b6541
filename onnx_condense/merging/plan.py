"""Plans: what a run decided, frozen, as JSON, replayable on the model that it names."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_condense.documents import check_regular, written
from onnx_condense.errors import PlanError
from onnx_condense.forms.bases import Rotation
from onnx_condense.forms.tied import Tie
from onnx_condense.merging.entries import whole, word
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.long_arrays import AnyArray, beside, filled, packed, put, row, take
from onnx_condense.merging.measured import Measured
from onnx_condense.merging.mixing import Mix
from onnx_condense.merging.rotations import rotation_from_json, rotation_to_json
from onnx_condense.merging.streams import ShortStream
from onnx_condense.merging.ties import tie_from_json, tie_to_json
from onnx_condense.options import Method

FORMAT = "onnx-condense-plan"
PLAIN, BASES, BEFORE, VERSION = 2, 3, 4, 5
"""Of what is written: 3 with pairs of factors or bases of streams, 4 with whole heads, short streams and ties, 5 with
tables whose frequent rows keep more, or products of data that heads do not fill.
Plans of format 1, with long arrays in a file beside them, are read too."""


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

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        return {
            "node": self.node,
            "input": self.input,
            "path": self.path,
            "layer": self.layer,
            "ratio": put(self.ratio),
            "constant": put(self.constant),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Read:
        """The inverse of `to_json`."""
        ratio, constant = row(content["ratio"]), row(content["constant"])
        node, position, path = whole(content["node"]), whole(content["input"]), whole(content["path"], -math.inf)
        return Read(node, position, path, word(content["layer"]), ratio, constant)


@dataclass(frozen=True, eq=False)
class Refit:
    """Explicit weights (W', b') of one consumer, which replace what the merges of its groups would fold into it.

    Or of a producer: the rows of the channels that stay are others then. Or numbers that channels have alone.

    Attributes:
        node, input: index of the node in the graph, and of its weight among the node's inputs.
        layer: its name, for people.
        source: what the moments of its input follow from.
        weight: W' in the weight's own layout, its contracted axis without the channels that go; with all places where
            other channels go in each of several lines. Numbers of each channel alone: of those that stay.
        shift: what is added to the bias, one number per row; empty for a consumer whose bias stays.
    """

    node: int
    input: int
    layer: str
    source: Evidence
    weight: AnyArray
    shift: AnyArray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Refit):
            return NotImplemented
        named = (self.node, self.input, self.layer, self.source) == (other.node, other.input, other.layer, other.source)
        return named and np.array_equal(self.weight, other.weight) and np.array_equal(self.shift, other.shift)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        return {
            "node": self.node,
            "input": self.input,
            "layer": self.layer,
            "source": self.source,
            "weight": put(self.weight),
            "shift": put(self.shift),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Refit:
        """The inverse of `to_json`. Raises ValueError for numbers that are not finite."""
        weight, shift = _finite(take(content["weight"])), _finite(take(content["shift"]))
        source = Evidence(content["source"])
        return Refit(whole(content["node"]), whole(content["input"]), word(content["layer"]), source, weight, shift)


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

    def of(self, gone: Collection[int]) -> GroupPlan:
        """The part of the plan that concerns these channels."""
        mine = np.isin(np.arange(self.width), list(gone))
        main, cosine = np.where(mine, self.main, np.arange(self.width)), np.where(mine, self.cosine, 1.0)
        reads = []
        for read in self.reads:
            ratio, constant = np.where(mine, read.ratio, 1.0), np.where(mine, read.constant, 0.0)
            reads.append(replace(read, ratio=tuple(ratio.tolist()), constant=tuple(constant.tolist())))
        return replace(self, main=tuple(main.tolist()), cosine=tuple(cosine.tolist()), reads=tuple(reads))

    def then(self, later: GroupPlan) -> GroupPlan:
        """Two plans for one group in a row as one: j -> m by this one, m -> k by the later one."""
        one, two = np.array(self.main), np.array(later.main)
        step = np.where(one >= 0, two[one], -1)
        moved = (one >= 0) & (two[one] != one)
        cosine = np.where(moved, np.minimum(self.cosine, np.array(later.cosine)[one]), self.cosine)
        reads = []
        second = {(r.node, r.input, r.path): r for r in later.reads}
        for read in self.reads:
            then = second[read.node, read.input, read.path]
            ratio, constant = np.array(read.ratio), np.array(read.constant)
            outer, inner = np.array(then.ratio)[one], np.array(then.constant)[one]
            ratio, constant = np.where(moved, ratio * outer, ratio), np.where(moved, ratio * inner + constant, constant)
            reads.append(replace(read, ratio=tuple(ratio.tolist()), constant=tuple(constant.tolist())))
        return replace(later, main=tuple(step.tolist()), cosine=tuple(cosine.tolist()), reads=tuple(reads))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        reads = [read.to_json() for read in self.reads]
        return {
            "index": self.index,
            "layers": list(self.layers),
            "main": put(self.main),
            "cosine": put(self.cosine),
            "highest": self.highest,
            "held": list(self.held),
            "reads": reads,
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> GroupPlan:
        """The inverse of `to_json`. Raises ValueError for what no run gives."""
        group = GroupPlan(
            whole(content["index"]),
            tuple(map(word, content["layers"])),
            row(content["main"]),
            row(content["cosine"]),
            content["highest"],
            tuple(content["held"]),
            tuple(Read.from_json(read) for read in content["reads"]),
        )
        _validate(group)
        return group


@dataclass(frozen=True)
class Heads:
    """Whole heads of attention that go before anything else: groups of heads, and consumers with explicit weights."""

    groups: tuple[GroupPlan, ...]
    refits: tuple[Refit, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        return {"groups": [one.to_json() for one in self.groups], "refits": [one.to_json() for one in self.refits]}

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Heads | None:
        """The inverse of `to_json`, None of nothing. Raises ValueError for what no run gives."""
        if content is None:
            return None
        groups = tuple(GroupPlan.from_json(group) for group in content["groups"])
        _expect(0 < len(groups) == len({g.index for g in groups}), "heads come twice, or none")
        return Heads(groups, tuple(map(Refit.from_json, content["refits"])))


@dataclass(frozen=True)
class Plan:
    """All groups of a run. Applying it needs nothing but the model whose sha256 it names.

    Attributes:
        model_sha256: of the model file.
        method: how neurons were merged.
        options: the options of the run, for people and for provenance.
        align: the width multiple of convolutions that was used, as measured on the host that planned.
        input_shapes: shapes of the graph inputs that the model was traced with.
        fold_batchnorm: whether BatchNormalization is folded in the file before.
        groups: the groups that shrink.
        refits: consumers and producers with explicit weights, in graph order.
        measured: what its run found; None where nothing was verified, and in plans of format 1.
        factors: weights that become pairs of factors, in graph order.
        rotations: streams, and sides of products of data, that are in other bases in the file before.
        mixes: what products of data take up of channels that go, by group; stated where there are any.
        heads: whole heads that are gone in the model that everything else is said of; stated where there are any.
        ties: tables that are held once in that model; stated where there are any.
        streams: those that lie in fewer directions in it; stated where there are any.
    """

    model_sha256: str
    method: Method
    options: Mapping[str, Any]
    align: int
    input_shapes: Mapping[str, tuple[int, ...]]
    fold_batchnorm: bool
    groups: tuple[GroupPlan, ...]
    refits: tuple[Refit, ...] = ()
    measured: Measured | None = None
    factors: tuple[Factor, ...] = ()
    rotations: tuple[Rotation, ...] = ()
    mixes: tuple[Mix, ...] = ()
    heads: Heads | None = None
    ties: tuple[Tie, ...] = ()
    streams: tuple[ShortStream, ...] = ()

    @property
    def done_before(self) -> bool:
        """Whether anything else than turning streams is done before the model is traced."""
        return bool(self.heads or self.ties or self.streams)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object; long arrays stand in it as they are (see `packed`)."""
        factors = {"factors": [factor.to_json() for factor in self.factors]} if self.factors else {}
        rotations = {"rotations": [rotation_to_json(r) for r in self.rotations]} if self.rotations else {}
        version = BEFORE if self.done_before else BASES if factors or rotations else PLAIN
        newest = any(f.bands for f in self.factors) or any(r.idle for r in self.rotations)
        return {
            "format": FORMAT,
            "version": VERSION if newest else version,
            "model_sha256": self.model_sha256,
            "method": self.method,
            "options": dict(self.options),
            "align": self.align,
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            "fold_batchnorm": self.fold_batchnorm,
            "groups": [group.to_json() for group in self.groups],
            "refits": [refit.to_json() for refit in self.refits],
            "measured": None if self.measured is None else asdict(self.measured),
            **({"mixes": [mix.to_json() for mix in self.mixes]} if self.mixes else {}),
            **({"heads": self.heads.to_json()} if self.heads else {}),
            **({"ties": [tie_to_json(tie) for tie in self.ties]} if self.ties else {}),
            **({"streams": [stream.to_json() for stream in self.streams]} if self.streams else {}),
        } | (factors | rotations)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for what `to_json` never writes."""
        _expect(content["method"] in tuple(Method), "unknown method")
        _expect(type(content["align"]) is int and content["align"] >= 1, "align is no number")
        _expect(isinstance(content["options"], dict), "options are no object")
        _expect(type(content["fold_batchnorm"]) is bool, "fold_batchnorm is not true or false")
        groups = tuple(GroupPlan.from_json(group) for group in content["groups"])
        _expect(len({g.index for g in groups}) == len(groups), "a group comes twice")
        return Plan(
            word(content["model_sha256"]),
            Method(content["method"]),
            content["options"],
            content["align"],
            {name: _sizes(shape) for name, shape in content["input_shapes"].items()},
            content["fold_batchnorm"],
            groups,
            tuple(Refit.from_json(refit) for refit in content.get("refits", ())),
            Measured.from_json(content.get("measured")),
            tuple(Factor.from_json(factor) for factor in content.get("factors", ())),
            tuple(rotation_from_json(rotation) for rotation in content.get("rotations", ())),
            tuple(Mix.from_json(mix) for mix in content.get("mixes", ())),
            Heads.from_json(content.get("heads")),
            tuple(tie_from_json(tie) for tie in content.get("ties", ())),
            tuple(ShortStream.from_json(stream) for stream in content.get("streams", ())),
        )

    def chunks(self) -> Iterator[bytes]:
        """The plan as the bytes of a file, piece by piece: one long array at a time."""
        for text in json.JSONEncoder(indent=1, default=packed).iterencode(self.to_json()):
            yield text.encode()
        yield b"\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes PLAN.json. Raises InputError."""
        with written(Path(path), self.chunks()):
            pass

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """Reads a plan. Raises PlanError when it is damaged or of another version."""
        path = Path(path)
        check_regular(path)
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise PlanError(f"cannot read the plan {path} ({error.strerror}): check the path") from error
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{path} is not JSON: write the plan again with --plan") from error
        _check_format(content, path)
        try:
            named = content.get("arrays") if content["version"] == 1 else None
            return Plan.from_json(content if named is None else filled(content, beside(path, named)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise PlanError(f"the plan {path} is damaged ({error}): write it again with --plan") from error


def _check_format(content: Any, path: Path) -> None:
    """Raises PlanError for a document that is no plan, or a plan of a version that is not known."""
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        other = f" but an {found}" if isinstance(found, str) else ""
        raise PlanError(f"{path} is no plan{other}: name a file that --plan wrote")
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise PlanError(
            f"{path} is a plan of version {version}, this program reads versions up to {VERSION}: write it again "
            "with --plan"
        )


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _finite(values: Any) -> AnyArray:
    array = np.asarray(values)
    _expect(array.dtype.kind in "fiV" and bool(np.isfinite(array.astype(float)).all()), "a weight is not finite")
    return array


def _sizes(shape: Any) -> tuple[int, ...]:
    _expect(isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape), "a shape is no list of sizes")
    return tuple(shape)


def _validate(group: GroupPlan) -> None:
    """Raises ValueError where a group could not have come from a run."""
    n = group.width
    _expect(bool(group.layers), "a group has no layers")
    _expect(all(type(m) is int and -1 <= m < n for m in group.main), "a main channel is out of range")
    _expect(all(m == -1 or group.main[m] == m for m in group.main), "a main channel does not stay itself")
    _expect(bool(group.keep), "no channel stays")
    _expect(all(type(c) is int and 0 <= c < n for c in group.held), "a held channel is out of range")
    for values in (group.cosine, *(one for read in group.reads for one in (read.ratio, read.constant))):
        _expect(len(values) == n, "a row has the wrong length")
        _expect(all(type(v) in (int, float) and math.isfinite(v) for v in values), "a number is missing or not finite")
