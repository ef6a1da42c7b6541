"""What a run tells: one frozen value, rendered as versioned JSON or as a table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from onnx_condense.documents import finite, head
from onnx_condense.errors import UsageError
from onnx_condense.goals import Goal, Share, Unit
from onnx_condense.merging.plan import Plan
from onnx_condense.model import files
from onnx_condense.model.files import Source
from onnx_condense.model.held import filled
from onnx_condense.model.variation import Axis
from onnx_condense.pages.page import fragment
from onnx_condense.planning.candidates import Alternative, SearchReport
from onnx_condense.planning.latencies import LatencyReport, TargetReport
from onnx_condense.proving.surgery import VerificationReport
from onnx_condense.report.cosines import Cosines
from onnx_condense.report.operators import OperatorReport
from onnx_condense.rewriting.writer import Written
from onnx_condense.timing.costs import Costs

VERSION = 1

WARN_ABOVE = 0.1
"""Approximation error above which a run without a tolerance warns."""


@dataclass(frozen=True)
class ModelFacts:
    """Size of a model.

    Attributes:
        sha256: of the file. path: where it is, None in memory.
        bytes: on disk.
        parameters: float initializers that are read and Constants, of rank >= 1, tied ones once, without running
            statistics of BatchNormalization; parameters_with_running_statistics counts those too.
        macs: multiply-accumulates of convolutions, recurrent nodes and matrix products, per sample.
    """

    path: str | None
    sha256: str
    bytes: int
    parameters: int
    parameters_with_running_statistics: int
    macs: int


@dataclass(frozen=True)
class GroupReport:
    """One dependency group.

    layers: its producers. highest_cosine: between two of its channels. lowest_merged_cosine: None where nothing merged.
    held_back: how many merges alignment undid; held_back_channels: of which channels.
    sources: where refitted consumers' moments come from: "calibration", "batch-normalization" or "weights".
    removed: why channels went, and how many: "merged" into others, "unread" by any consumer, "constant", or "spared"
        as what consumers lose least by, where a budget asks for that.
    """

    layers: tuple[str, ...]
    width_before: int
    width_after: int
    highest_cosine: float
    lowest_merged_cosine: float | None
    threshold: float | None
    method: str
    held_back: int
    held_back_channels: tuple[int, ...]
    sources: tuple[str, ...]
    removed: Mapping[str, int]


@dataclass(frozen=True)
class PairReport:
    """A weight that became a pair of factors: of [outputs, rank] and [rank, inputs].

    full: the highest rank that it could have had. source: where the moments of what it reads come from, None where it
    was exactly of that rank. frequent: how many rows of a table have this rank where the others have another, `rare`;
    0 and None where all have it.
    """

    layer: str
    outputs: int
    inputs: int
    full: int
    rank: int
    source: str | None
    frequent: int = 0
    rare: int | None = None


@dataclass(frozen=True)
class HeadReport:
    """Attention that whole heads left, or may leave: of queries, keys and values (layers) how many before, and after.

    Heads that share keys count as one.
    """

    layers: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class TieReport:
    """A table of embeddings that is held once: the names of other constants that its transpose makes then.

    rank: of the pair of factors that all its readers share, None where it is no pair.
    """

    table: str
    copies: tuple[str, ...]
    rank: int | None


@dataclass(frozen=True)
class StreamReport:
    """A stream that normalizations read: its channels, and how many directions are left of it, or are filled.

    layers: those that write to it. reason: why it stays as wide as it is, None where it need not.
    """

    layers: tuple[str, ...]
    width: int
    rank: int
    reason: str | None = None


@dataclass(frozen=True)
class RefusalReport:
    """Layers that stay as they are for one reason, and the parameters of their weights."""

    reason: str
    layers: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class AlignmentReport:
    """The multiple that convolution widths were kept at, who says so, what that held back, and what to do about it."""

    multiple: int
    source: str
    held_back: int
    advice: str | None


@dataclass(frozen=True, repr=False)
class Report:
    """Everything that a run found and did; `to_json` is the stable form.

    axes: the symbolic axes of the inputs, and the sizes that each was seen to take. pairs: of factors.
    alternatives: what a stated threshold or budget would do, where none was.
    operators: the model by types of operators, before and after. target: of a budget of latency.
    heads: attention that lost whole heads; widths of its groups are those of the heads that are left.
    ties: tables of embeddings that are held once. streams: those that lie in fewer directions than before.
    """

    input: ModelFacts
    output: ModelFacts | None
    options: Mapping[str, Any]
    alignment: AlignmentReport
    latency: LatencyReport | None
    search: SearchReport | None
    groups: tuple[GroupReport, ...]
    refusals: tuple[RefusalReport, ...]
    verification: VerificationReport | None
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    axes: tuple[Axis, ...] = ()
    pairs: tuple[PairReport, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    operators: tuple[OperatorReport, ...] = ()
    target: TargetReport | None = None
    heads: tuple[HeadReport, ...] = ()
    ties: tuple[TieReport, ...] = ()
    streams: tuple[StreamReport, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything was condensed."""
        once = self.pairs or self.heads or self.ties or self.streams
        return bool(once) or any(g.width_after < g.width_before for g in self.groups)

    def share_of(self, goal: Goal | None) -> float:
        """What is left of the model, as a share counts it."""
        counts = isinstance(goal, Share) and goal.unit is Unit.MACS
        before, after = (one.macs if counts else one.parameters for one in (self.input, self.output or self.input))
        return after / before if before else 1.0

    @property
    def sentence(self) -> str:
        """What was done, in a few words."""
        before, after = self.input.parameters, (self.output or self.input).parameters
        sizes = f"{before:,} → {after:,} parameters" if after != before else f"{before:,} parameters, unchanged"
        if self.verification is None:
            return f"{sizes}, not verified"
        error = self.verification.approximation_error
        found = "error unknown" if math.isnan(error) else f"error {error:.2g}"
        return f"{sizes}, {found} on {'generated' if self.verification.generated else 'given'} inputs"

    def __repr__(self) -> str:
        """One line."""
        return f"<Report: {self.sentence}>"

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object; numbers that are not finite are null."""
        result: dict[str, Any] = finite(head("report", VERSION) | asdict(self))
        return result


@dataclass(frozen=True, repr=False)
class Result:
    """What `condense` returns; `changed` says whether `model` is another than the input.

    Attributes:
        outline: the condensed model; the input where nothing was condensed. Where the input is a large file, large
            weights are held in files (`model/held.py`), new ones while this object lives.
        plan: what was decided; its `groups` are empty where nothing was condensed.
        report: what was found, done and measured.
        source: the model as it came in.
        cosines: how alike channels of the groups are that lose most, for a page.
        costs: the table that a budget of latency was planned by, as it was corrected: with it the result is the same.
    """

    outline: onnx.ModelProto
    plan: Plan
    report: Report
    source: Source
    written: Written | None = None
    cosines: tuple[Cosines, ...] = ()
    costs: Costs | None = None

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The condensed model with all of its numbers; the input where nothing was condensed."""
        return filled(self.outline)

    @property
    def changed(self) -> bool:
        """Whether the model is another than the input."""
        return self.outline is not self.source.proto

    def save(self, path: str | os.PathLike[str]) -> int:
        """Writes the model, whole or not at all; returns the bytes written. The input itself where nothing changed.

        Weights go to a file of their own where the source keeps them outside, too. What is there is replaced.

        Raises:
            UsageError: the path is the model that was condensed, which is never touched.
            InputError: it cannot be written.
        """
        place, source = Path(path), self.source
        if source.path is not None and os.path.realpath(place) == os.path.realpath(source.path):
            raise UsageError(f"{place} is the model that was condensed: choose another place")
        if self.changed:
            apart = bool(source.external)
            return files.save(self.outline, place, external=apart, source=source.path, step=source.step).size
        return files.copy(source, place)[1].size

    def __repr__(self) -> str:
        """One line."""
        return f"<Result: {self.report.sentence}>"

    def _repr_html_(self) -> str | None:
        """Tables and the widths as bars, for a notebook; None without the extra `report`."""
        return fragment(self.report.to_json() | {"sentence": self.report.sentence})


@dataclass(frozen=True)
class GroupAnalysis:
    """One dependency group of `analyze`: its producers, its channels, and the channels that stay at each threshold."""

    layers: tuple[str, ...]
    width: int
    widths: Mapping[float, int]
    highest_cosine: float


@dataclass(frozen=True)
class PairAnalysis:
    """One weight that may become a pair of factors.

    Attributes:
        layer, outputs, inputs: its name and its size.
        pays: the highest rank at which a pair is smaller.
        ranks: those that keep shares of the weight's squared numbers; empty of a weight too large for a look.
    """

    layer: str
    outputs: int
    inputs: int
    pays: int
    ranks: Mapping[float, int]


@dataclass(frozen=True, repr=False)
class Analysis:
    """What could be condensed, and what not and why.

    share: of the parameters of linear maps, recurrent layers and tables, the part that is sliced when groups
        shrink; not a number where there are none.
    axes: the symbolic axes of the inputs, and the sizes that each was seen to take.
    pairs: weights that may become pairs of factors. with_pairs: as `share`, with those among the parameters.
    whole: weights that may not, and why.
    heads: attention that may lose whole heads, and how many are left without loss. ties: tables that may be held once.
    streams: those that normalizations read, and how many directions are filled.
    """

    model: ModelFacts
    groups: tuple[GroupAnalysis, ...]
    refusals: tuple[RefusalReport, ...]
    share: float
    axes: tuple[Axis, ...] = ()
    pairs: tuple[PairAnalysis, ...] = ()
    with_pairs: float = math.nan
    whole: tuple[RefusalReport, ...] = ()
    heads: tuple[HeadReport, ...] = ()
    ties: tuple[TieReport, ...] = ()
    streams: tuple[StreamReport, ...] = ()

    def __repr__(self) -> str:
        """One line."""
        layers = sum(len(refusal.layers) for refusal in self.refusals)
        return f"<Analysis: {len(self.groups)} groups that can shrink, {layers} layers that stay>"

    def to_json(self) -> dict[str, Any]:
        """The analysis as a JSON object; numbers that are not finite are null."""
        result: dict[str, Any] = finite(head("analysis", 1) | asdict(self))
        return result
