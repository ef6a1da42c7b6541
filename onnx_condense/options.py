"""What a caller may ask for: the command line's options, as one frozen value."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from onnx_condense import expected, flags
from onnx_condense.errors import UsageError
from onnx_condense.exclusions import EXCLUSIONS
from onnx_condense.flags import Heading, InPlan, multiple, must, named_number, named_sizes, option
from onnx_condense.goals import LATENCY, SHARES, ErrorBound, Goal, Latency, ScoreDrop, Share, Unit

if TYPE_CHECKING:  # a command line is read before anything slow is imported
    from onnx_condense.model.inputs import Inputs

DEFAULT_THRESHOLD = 0.88
"""The paper's condensation threshold (section 3.2.2)."""


DEFAULT_ERROR = 0.01
"""The largest error of the outputs where nothing says how much is removed."""

FEW_TRIALS = 9
"""Models evaluated at most then."""

DEFAULT_TRIALS = 12
"""Models evaluated at most where a bound is asked for, the original included."""

PLACE = "{model}"
"""In the command that evaluates: where the path of the model goes."""

MOST_THREADS = 256
"""Of one session: onnxruntime starts all of them before a signal is heard."""

INSPECT_THRESHOLDS = (0.999, 0.95, 0.88, 0.7)


class Method(StrEnum):
    """How neurons are merged; a row of `merging.methods` says what each one does."""

    LOSSLESS = "lossless"
    AUTO = "auto"
    CALIBRATED = "calibrated"
    MOMENTS = "moments"
    RATIO = "ratio"
    DELETE = "delete"


MERGES = tuple(method for method in Method if method is not Method.LOSSLESS)
"""What `merge` may be."""


class Depthwise(StrEnum):
    """Which stages of a depthwise-separable block are judged: every one, or its depthwise taps alone."""

    JOINT = "joint"
    KERNEL = "kernel"


class Host(StrEnum):
    """Hosts that a multiple is known for."""

    AVX2 = "avx2"
    AVX512 = "avx512"
    ARM64 = "arm64"


Merge = Method | Literal["auto", "calibrated", "moments", "ratio", "delete"]
"""A merge method, or its name."""

ENUMS: Mapping[str, type[StrEnum]] = {"merge": Method, "depthwise": Depthwise, "align_for": Host}
"""Options that may be given by name."""

# ---------------------------------------------------------------------------------------------------- ranges

REMOVE, WELL, FAST, WHERE, INPUTS = Heading.REMOVE, Heading.WELL, Heading.FAST, Heading.WHERE, Heading.INPUTS
STATED, STATED_LATER, ANSWERED = InPlan.STATED, InPlan.STATED_LATER, InPlan.ANSWERED


_threshold = must(
    lambda value: 0 < value <= 1, "a threshold must satisfy 0 < T <= 1, not {value:g}: pass for example 0.88"
)


def _thresholds(option: str, value: Any) -> None:
    for _, threshold in value:
        _threshold(option, threshold)


def _budget(option: str, value: Any) -> None:
    unit, amount = value
    if not (0 < amount <= 1 if unit in (*Unit, LATENCY) else unit == "error" and 0 <= amount < math.inf):
        raise UsageError(
            f"{option} is {' or '.join(SHARES)}, the share 0 < F <= 1 to keep, or error=R, the largest error of "
            f"the outputs, not {unit}={amount}"
        )


_merge = must(lambda value: value in MERGES, f"{{option}} is {', '.join(MERGES)}, not {{value}}")
_depthwise = must(lambda value: value in tuple(Depthwise), "{option} is joint or kernel, not {value}")
_host = must(lambda value: value in tuple(Host), f"{{option}} is {', '.join(Host)}, not {{value}}")
_align = must(
    lambda value: value == "auto" or (isinstance(value, int) and value is not True and value >= 1),
    "{option} is auto or a positive whole number, not {value}: --align 1 turns it off",
)
_tolerance = must(lambda value: value >= 0, "{option} must be a number of at least 0, not {value}")
_seed = must(lambda value: value >= 0, "{option} is a whole number of at least 0, not {value}")
_threads = must(
    lambda value: 0 <= value <= MOST_THREADS, f"{{option}} is 0 (all cores) to {MOST_THREADS}, not {{value}}"
)
_batch = must(lambda value: value >= 1, "{option} is a whole number of at least 1, not {value}")
_drop = must(lambda value: 0 <= value < math.inf, "{option} is what the score may fall by, at least 0, not {value}")


@dataclass(frozen=True)
class Options:
    """Options of one run. Every field has the name of its command-line option.

    Attributes:
        threshold: two neurons condense when their cosine is above it, 0 < threshold <= 1; None means 0.88 where
            something else asks for thresholds. Where nothing says how much is removed, see `settled`.
        layer_threshold: thresholds for the layers that match a glob (node or weight names); the last match wins.
        lossless: merge only what is exact to float rounding. Excludes `threshold` and `merge`.
        merge: what becomes of condensed neurons. "ratio" is the paper's merge, "delete" drops them. "moments" also
            removes channels that nobody reads, that are constant or that hardly vary, and gives consumers the weights
            that lose least by what the model says of its own channels; "calibrated" by calibration inputs. "auto" is
            "calibrated" with calibration inputs, else "moments". None means "auto".
        depthwise: "joint" judges every stage of a depthwise-separable block, "kernel" the depthwise taps alone.
        align: "auto" keeps Conv widths at multiples that onnxruntime wants on this host; a number is that multiple.
        align_for: the multiple for another host: "avx2", "avx512" or "arm64" (not measured). Excludes `align`.
        ensure_faster: measure the result against the original; dependency groups that make it slower are widened or
            rolled back until it is not shown slower, even if that exceeds a budget.
        include, exclude: globs over node or weight names; a group is taken when one of its layers matches
            `include` (empty: all) and none matches `exclude`.
        tolerance: bound of the approximation error, max over outputs of ||a-b|| / ||a||, or of the share of labels that
            change.
        budget: ("params", share) or ("macs", share): the share that is kept, 0 < share <= 1. ("latency", share): of the
            original's latency, by layers that are timed on this host. ("error", bound): the smallest model found whose
            approximation error is at most that. Excludes thresholds.
        latency_for: the path of a cost table that another machine measured (`onnx-condense bench --costs`), for a
            budget of latency there; it says with how many threads and at which batch size.
        threads, batch: for a budget of latency on this host: of onnxruntime (0: all cores), and the size of a symbolic
            batch axis (None: 1).
        evaluate: a command whose last line of output is a score, higher is better ("{model}" in it is replaced by the
            path of a model), or a function of a model that returns one. With `max_drop`, asks for the smallest model
            found whose score is at most that much below the original's. Excludes `budget` and thresholds.
        trials: models that are evaluated at most (the original's score counts as one); None means 12, or 9
            where nothing says how much is removed.
        data: verification inputs, samples on axis 0: arrays by input name, the path of an .npz, .npy, .csv or .parquet,
            of images (`Images` says how they become numbers), of test_data_set_* of ONNX, or of a folder of one of
            these, or "loader.py:function", which yields dictionaries of arrays; None generates them.
        calibration: inputs that "calibrated" estimates from, in the forms of `data`, or several of those; they verify
            too (a fifth, held back) where there is no `data`. Of several, files are read one at a time, when needed.
        input_shape: sizes for symbolic dimensions, e.g. {"image": (1, 3, 224, 224)}.
        input_range: (low, high) of generated floats. None takes what a scale at the only input implies, as x / 255.
        sequential: the paper's order, layer after layer on already merged weights.
        widths_only: nothing but widths changes: no weight becomes a pair of factors, no stream gets another basis.
        fold_batchnorm: fold BatchNormalization into the weights in the file.
        seed: of the generated verification inputs.
    """

    threshold: float | None = option(
        None, "neurons condense when their cosine is above T", REMOVE, "T", float, _threshold, STATED
    )
    layer_threshold: tuple[tuple[str, float], ...] = option(
        (), "another threshold for some layers", REMOVE, "GLOB=T", named_number, _thresholds, STATED, gather=tuple
    )
    lossless: bool = option(False, "only what is exact to float rounding", REMOVE, plan=STATED)
    merge: Merge | None = option(
        None, "what becomes of condensed neurons", WELL, check=_merge, plan=STATED, choices=MERGES, unset="auto"
    )
    depthwise: Depthwise | Literal["joint", "kernel"] = option(
        Depthwise.JOINT,
        "judge every stage, or the depthwise taps alone",
        REMOVE,
        check=_depthwise,
        plan=STATED,
        choices=tuple(Depthwise),
    )
    align: int | Literal["auto"] = option(
        "auto", "keep Conv widths at multiples", FAST, "auto|N", multiple, _align, STATED, unset="auto, this host's"
    )
    align_for: Host | Literal["avx2", "avx512", "arm64"] | None = option(
        None,
        "keep them at the multiple of another host (arm64: not measured)",
        FAST,
        check=_host,
        plan=ANSWERED,
        choices=tuple(Host),
    )
    ensure_faster: bool = option(False, "measure; widen or roll back what makes it slower", FAST, plan=ANSWERED)
    include: tuple[str, ...] = option(
        (), "only these layers (node or weight names)", WHERE, "GLOB", str, plan=STATED, gather=tuple
    )
    exclude: tuple[str, ...] = option(
        (), "not these layers; wins over --include", WHERE, "GLOB", str, plan=STATED, gather=tuple
    )
    tolerance: float | None = option(
        None, "largest relative L2 error of the outputs", WELL, "R", float, _tolerance, ANSWERED
    )
    budget: tuple[str, float] | None = option(
        None,
        "keep at most this share; or the smallest within this error",
        REMOVE,
        "|".join((*SHARES, "error=R")),
        named_number,
        _budget,
        STATED_LATER,
        unset=f"error={DEFAULT_ERROR:g}, where nothing says how much goes",
    )
    latency_for: str | os.PathLike[str] | None = option(
        None, "with --budget latency: the cost table of another machine", FAST, "COSTS.json", plan=ANSWERED, told=False
    )
    threads: int = option(
        0, "with --budget latency: of onnxruntime", FAST, "N", int, _threads, ANSWERED, unset="0, all cores", told=False
    )
    batch: int | None = option(
        None,
        "with --budget latency: size of a symbolic batch axis",
        FAST,
        "N",
        int,
        _batch,
        ANSWERED,
        unset="1",
        told=False,
    )
    evaluate: str | Callable[[Any], float] | None = option(
        None, 'prints a score, higher is better: "python score.py {model}"', REMOVE, "CMD", plan=STATED_LATER
    )
    max_drop: float | None = option(
        None, "with --evaluate: how much the score may fall", REMOVE, "D", float, _drop, STATED_LATER
    )
    trials: int | None = option(
        None, "models evaluated at most", REMOVE, "N", int, plan=STATED_LATER, unset=str(DEFAULT_TRIALS)
    )
    data: Inputs | None = option(
        None,
        "samples on axis 0: .npz, .npy, .csv, .parquet, images, test_data_set_*, a folder, or loader.py:function",
        INPUTS,
        "INPUTS",
        unset="generated",
        told=False,
    )
    calibration: Inputs | Iterable[Inputs] | None = option(
        None,
        "inputs to estimate from, without labels (as --data; a fifth verifies)",
        WELL,
        "INPUTS",
        plan=ANSWERED,
        gather=list,
        told=False,
    )
    input_shape: Mapping[str, tuple[int, ...]] = option(
        {}, "sizes for symbolic dimensions", INPUTS, "NAME=1x3x224x224", named_sizes, plan=ANSWERED, gather=dict
    )
    input_range: tuple[float, float] | None = option(
        None, "where generated inputs lie", INPUTS, "LOW,HIGH", flags.numbers, unset="as the model says", told=False
    )
    sequential: bool = option(False, "layer after layer on already merged weights, as in the paper", WELL, plan=STATED)
    widths_only: bool = option(
        False, "the same layers, narrower: no pairs of factors, no other bases", WELL, plan=STATED_LATER
    )
    fold_batchnorm: bool = option(False, "fold BatchNormalization into the weights in the file", WELL, plan=STATED)
    seed: int = option(0, "of generated inputs", INPUTS, "S", int, _seed)

    def __post_init__(self) -> None:
        """Raises UsageError when options contradict each other or are out of range."""
        expected.check(self)
        flags.check(self)
        for name, kind in ENUMS.items():
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else kind(value))
        for excluded in EXCLUSIONS:
            text = excluded(self)
            if text is not None:
                raise UsageError(text)

    @property
    def open(self) -> bool:
        """Whether nothing says how much is removed."""
        stated = (self.threshold, self.layer_threshold or None, self.tolerance, self.budget, self.evaluate)
        return not self.lossless and all(value is None for value in stated)

    def settled(self) -> Options:
        """With something that says how much is removed: by default, the smallest model within `DEFAULT_ERROR`.

        A search looks for it as for --budget error=R; with options that a search does not take, thresholds do.
        """
        if not self.open:
            return self
        if self.sequential or self.ensure_faster:
            return replace(self, tolerance=DEFAULT_ERROR)
        return replace(self, budget=("error", DEFAULT_ERROR), trials=FEW_TRIALS)

    def exactly(self) -> Options:
        """The same, merging only what is exact."""
        return replace(self, lossless=True, merge=None, budget=None, tolerance=None, trials=None)

    @property
    def goal(self) -> Goal | None:
        """What decides the widths, None where thresholds do."""
        if self.max_drop is not None:
            return ScoreDrop(self.max_drop)
        if self.budget is None:
            return None
        unit, amount = self.budget
        if unit == LATENCY:
            return Latency(amount)
        return ErrorBound(amount) if unit == "error" else Share(Unit(unit), amount)

    @property
    def bounded(self) -> bool:
        """Whether the approximation error is."""
        return self.tolerance is not None or isinstance(self.goal, ErrorBound)

    @property
    def budgeted(self) -> bool:
        """Whether widths follow from a budget or from a score, and not from thresholds."""
        return self.budget is not None or self.evaluate is not None

    @property
    def measures(self) -> bool:
        """Whether something is timed on this host."""
        return self.ensure_faster or (isinstance(self.goal, Latency) and self.latency_for is None)

    @property
    def searches(self) -> bool:
        """Whether models of several sizes are evaluated."""
        return self.evaluate is not None or (self.budget is not None and self.budget[0] == "error")

    @property
    def method(self) -> Method:
        """How neurons are merged in this run."""
        return Method.LOSSLESS if self.lossless else Method(self.merge or Method.AUTO)

    @staticmethod
    def of_plan(content: Mapping[str, Any], align: int) -> Options:
        """The options of a plan, from what `to_json` wrote; the tolerance is not asked for again.

        Raises KeyError, TypeError or ValueError for what it never writes.
        """
        values: dict[str, Any] = {}
        for name, flag in flags.flags_of(Options).items():
            if flag.plan is InPlan.STATED or (flag.plan is InPlan.STATED_LATER and name in content):
                value = flags.from_json(content[name])
                values[name] = tuple(value) if flag.gather is tuple else value
        lossless = bool(values["lossless"])
        merge = Method.AUTO if values["merge"] == Method.CALIBRATED else values["merge"]
        return Options(**values | {"align": align, "lossless": lossless, "merge": None if lossless else merge})

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values, without the inputs."""
        named = {name: getattr(self, name) for name, flag in flags.flags_of(Options).items() if flag.told}
        of_thresholds = not (self.lossless or self.budgeted or self.open)
        named["threshold"] = (self.threshold or DEFAULT_THRESHOLD) if of_thresholds else None
        named["merge"] = self.method
        if callable(self.evaluate):
            named["evaluate"] = f"{self.evaluate.__module__}.{getattr(self.evaluate, '__qualname__', 'object')}"
        named["trials"] = (self.trials or DEFAULT_TRIALS) if self.searches else None
        content: dict[str, Any] = flags.to_json(named)
        return content
