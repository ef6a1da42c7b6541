"""Two models side by side in onnxruntime: the two error figures of the design (section 4), never mixed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnx_condense.arrays import FLOAT32, FLOATS, Array
from onnx_condense.documents import finite, head
from onnx_condense.errors import InputError
from onnx_condense.model import apart
from onnx_condense.model.blame import blamed
from onnx_condense.model.files import Model, load
from onnx_condense.model.inputs import Feed, draw_feeds
from onnx_condense.model.outputs import LABELS, Outputs, arrays, samples_in, tells
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.classes import class_outputs
from onnx_condense.operators.specs import model_specs

NOISE_FACTOR = 10
"""The surgery limit is at least this many times what the original differs from itself, optimizations off and on."""

NOISIEST = 0.5
"""Beyond this a limit says nothing: so far is one model's output from another's that has hardly to do with it."""

QUIET = 1e-2
"""An output that all but vanished against the original's is measured against this share of the original's norm."""


NOTHING_TOLD = (
    "nothing comparable was seen: on these inputs the outputs are not finite, or the same for all samples, or no "
    "numbers; give inputs on which they vary with --data"
)
"""What is said where a comparison would rest on nothing."""


@dataclass(frozen=True)
class OutputComparison:
    """How one output b differs from a, over all samples.

    Attributes:
        name: of the output.
        relative_l2: ||a - b|| / ||a||; for labels (integers, truth values, strings) the share that differs.
        max_abs: largest absolute difference.
        cosine: of a and b as vectors; None for labels.
        top1_agreement: share of rows with the same argmax, for outputs [..., classes]; else None (see `of_classes`).
        is_float: whether it is measured; labels are counted.
        dtype: its type.
    """

    name: str
    relative_l2: float
    max_abs: float
    cosine: float | None
    top1_agreement: float | None
    is_float: bool
    dtype: str


@dataclass(frozen=True)
class Verification:
    """The result of `verify`: one comparison per output.

    told: whether any output of the first model was finite and not the same for all samples.
    generated: whether the inputs were.
    """

    outputs: tuple[OutputComparison, ...]
    samples: int
    told: bool = True
    generated: bool = False

    @property
    def error(self) -> float:
        """The largest relative L2 of a float output, or share of an output's labels that differ; a NaN is infinite."""
        return _largest(self.outputs)

    @property
    def float_error(self) -> float:
        """The same of float outputs alone: a label may change by rounding."""
        return _largest(o for o in self.outputs if o.is_float)

    @property
    def mismatched(self) -> tuple[str, ...]:
        """The outputs of labels that differ."""
        return tuple(o.name for o in self.outputs if not o.is_float and o.relative_l2 > 0)

    @property
    def worst(self) -> float:
        """As `error`, but a NaN stays one."""
        return max((o.relative_l2 for o in self.outputs), key=lambda e: (np.isnan(e), e), default=0.0)

    def meets(self, tolerance: float) -> bool:
        """Whether something was compared, and no output differs by more."""
        return self.told and self.worst <= tolerance

    def of_classes(self, names: Collection[str]) -> Verification:
        """The same, with agreement of classes for the outputs that are scores of some (names) only."""
        outputs = (o if o.name in names else replace(o, top1_agreement=None) for o in self.outputs)
        return replace(self, outputs=tuple(outputs))

    def to_json(self, tolerance: float | None = None, models: Sequence[str] = ()) -> dict[str, Any]:
        """The comparison as a JSON object, with whether it meets a tolerance; not finite numbers are null.

        models: the names of both, where they have any.
        """
        met = None if tolerance is None else self.meets(tolerance)
        verdict = {"worst": self.worst, "tolerance": tolerance, "met": met, "models": list(models)}
        result: dict[str, Any] = finite(head("verification", 1) | asdict(self) | verdict)
        return result


def _largest(outputs: Iterable[OutputComparison]) -> float:
    values = [o.relative_l2 for o in outputs]
    return float(np.inf) if any(np.isnan(values)) else max(values, default=0.0)


@dataclass
class _Tally:
    """What has been seen of one output a and of another model's b so far; sums in float64."""

    squares: float = 0.0
    others: float = 0.0
    difference: float = 0.0
    product: float = 0.0
    reference: float = 0.0
    max_abs: float = 0.0
    unequal: int = 0
    count: int = 0
    agreed: int = 0
    rows: int = 0
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.float32))

    def add(self, a: Array, b: Array, reference: Array | None) -> None:
        """Takes one feed's outputs, of any shape; they should have the same. reference: the original's."""
        self.dtype = a.dtype
        if a.shape != b.shape or (a.dtype.kind == "U") != (b.dtype.kind == "U"):
            self.difference = np.inf
            return
        same = np.asarray(a == b)
        if a.dtype.kind == "U":
            self.unequal += int(np.count_nonzero(~same))
            self.count += a.size
            return
        x, y = a.astype(np.float64), b.astype(np.float64)
        same |= np.isnan(x) & np.isnan(y)
        self.unequal += int(np.count_nonzero(~same))
        self.count += x.size
        x, y = np.where(same & ~np.isfinite(x), 0.0, x), np.where(same & ~np.isfinite(y), 0.0, y)
        gap = np.where(same, 0.0, x - y)
        self.squares += float((x * x).sum())
        self.others += float((y * y).sum())
        self.product += float((x * y).sum())
        self.difference += float((gap * gap).sum())
        self.max_abs = max(self.max_abs, float(np.nan_to_num(np.abs(gap), nan=np.inf).max(initial=0.0)))
        if reference is not None:
            self.reference += float((np.nan_to_num(reference.astype(np.float64), posinf=0, neginf=0) ** 2).sum())
        if a.ndim >= 2 and a.shape[-1] > 1 and a.size:
            self.agreed += int((x.argmax(-1) == y.argmax(-1)).sum())
            self.rows += x.size // x.shape[-1]

    def comparison(self, name: str) -> OutputComparison:
        """What follows for an output of this name."""
        is_float = self.dtype.kind not in LABELS
        dtype = "string" if self.dtype.kind == "U" else self.dtype.name
        scale = max(np.sqrt(self.squares), QUIET * np.sqrt(self.reference))
        error = 0.0 if self.difference == 0 else np.inf
        if scale > 0 and np.isfinite(self.difference):
            error = np.sqrt(self.difference) / scale
        if not is_float:
            error = self.unequal / max(1, self.count) if np.isfinite(self.difference) else np.inf
        norms = np.sqrt(self.squares) * np.sqrt(self.others)
        cosine = self.product / norms if 0 < norms < np.inf else (1.0 if self.squares == self.others else 0.0)
        agreement = self.agreed / self.rows if self.rows else None
        return OutputComparison(
            name, float(error), self.max_abs, float(cosine) if is_float else None, agreement, is_float, dtype
        )


Results = Sequence[Outputs]
"""Feed by feed."""

NONE = np.zeros(0, dtype=np.float32)


def compare(a: Results, b: Results, reference: Results | None = None) -> Verification:
    """Compares the outputs of two models, feed by feed.

    `reference`: outputs of the original; what all but vanished is measured against their size (surgery only).
    """
    tallies: dict[str, _Tally] = {name: _Tally() for feed in a for name in feed}
    for index, (left, right) in enumerate(zip(a, b, strict=True)):
        for name in (name for name in tallies if name in left or name in right):
            original = reference[index].get(name) if reference else None
            tallies[name].add(left.get(name, NONE), right.get(name, NONE), original)
    samples = sum(map(samples_in, a))
    return Verification(tuple(tally.comparison(name) for name, tally in tallies.items()), samples)


@dataclass(frozen=True, eq=False)
class Varying:
    """What differs between the samples of a model's outputs."""

    outputs: Results

    @cached_property
    def _own(self) -> Results:
        return varying(self.outputs)

    def compare(self, found: Results) -> Verification:
        """With that of another model; where next to nothing differs, against the size of what there is."""
        return compare(self._own, varying(found), self.outputs)


def varying(outputs: Results) -> Results:
    """Floats without what all samples have in common; arrays that are not of samples stay as they are."""
    names = [name for name in outputs[0] if _are_of_samples([feed[name] for feed in outputs])] if outputs else []
    means = {n: np.concatenate([feed[n] for feed in outputs]).mean(axis=0, dtype=np.float64) for n in names}
    return [{**feed, **{name: feed[name] - mean for name, mean in means.items()}} for feed in outputs]


def _are_of_samples(values: Sequence[Array]) -> bool:
    first = values[0]
    alike = all(value.ndim and value.shape[1:] == first.shape[1:] for value in values)
    return first.dtype.kind == "f" and alike and sum(map(len, values)) > 1


def worse(a: Verification, b: Verification) -> Verification:
    """Of each output the one with the larger error; a NaN is larger than anything."""
    others = {o.name: o for o in b.outputs}
    pairs = [(o, others.pop(o.name, o)) for o in a.outputs]
    return replace(a, outputs=(*(max(pair, key=_size) for pair in pairs), *others.values()))


def _size(output: OutputComparison) -> tuple[bool, float]:
    return bool(np.isnan(output.relative_l2)), output.relative_l2


def results(model: onnx.ModelProto, feeds: Iterable[Feed], optimize: bool = True) -> list[dict[str, Array]]:
    """Runs a model on every feed: its outputs, of any shape, by name, flattened as by `arrays`. Raises InputError."""
    found = apart.outputs(model, list(feeds), optimize)
    return [arrays(values, values.values()) for values in found]


def is_told(told: bool | None, expected: Results, feeds: Sequence[Feed]) -> bool:
    """Whether the outputs on some feeds say anything. told: what is known of generated ones (see `Drawn`)."""
    return told if told is not None else tells(expected, [samples_in(feed) for feed in feeds])


def surgery_limits(noise: Verification) -> dict[str, float]:
    """Output name -> what the condensed model may differ from its expanded twin there: float rounding.

    `noise`: the original against itself, onnxruntime's optimizations off and on.
    """
    limits = {}
    for output in noise.outputs:
        own = NOISE_FACTOR * output.relative_l2 if np.isfinite(output.relative_l2) else 0.0
        limits[output.name] = max(FLOATS.get(output.dtype, FLOAT32).surgery, min(own, NOISIEST))
    return limits


def nearest(found: Verification, limits: Mapping[str, float]) -> tuple[float, float]:
    """(error, limit) of the float output nearest to its limit, or furthest beyond it; for none, 0 and float32's."""
    pairs = [(o.relative_l2, limits.get(o.name, FLOAT32.surgery)) for o in found.outputs if o.is_float]
    return max(pairs, key=lambda pair: (np.isnan(pair[0]), pair[0] / pair[1]), default=(0.0, FLOAT32.surgery))


def verify(
    a: Model,
    b: Model,
    data: str | os.PathLike[str] | Mapping[str, Array] | None = None,
    *,
    input_shape: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> Verification:
    """Compares two models in onnxruntime on the same inputs.

    Args:
        a: a path or a model, to which errors are relative.
        b: the other one.
        data: as `Options.data`: a path, or arrays [samples, ...] by input name; None generates seeded signed inputs.
        input_shape: sizes for symbolic dimensions of generated inputs.
        seed: of generated inputs.

    Raises:
        InputError: a model or the data cannot be used, or the outputs have different names.
    """
    first, second = load(a).proto, load(b).proto
    with blamed(first, "the first model"):
        specs = model_specs(first, import_graph(first))
    drawn = draw_feeds(first, specs, data, input_shape or {}, seed)
    left, right = results(first, drawn.feeds), results(second, drawn.feeds)
    missing = [name for name in left[0] if name not in right[0]] if left else []
    if missing:
        raise InputError(f"the second model has no output {missing[0]}: compare models with the same outputs")
    found = compare(left, right).of_classes(class_outputs(first))
    return replace(found, told=is_told(drawn.told, left, drawn.feeds), generated=data is None)
