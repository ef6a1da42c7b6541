"""What a caller may ask for: the command line's options, as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, get_args

from onnx_condense.errors import UsageError
from onnx_condense.model.inputs import Inputs

DEFAULT_THRESHOLD = 0.88
"""The paper's condensation threshold (section 3.2.2)."""


class Unit(StrEnum):
    """What a budget may keep a share of."""

    PARAMS = "params"
    MACS = "macs"
    """Multiply-accumulates."""


@dataclass(frozen=True)
class Share:
    """Keep at most this share of the units."""

    unit: Unit
    share: float


@dataclass(frozen=True)
class ErrorBound:
    """The smallest model whose approximation error is at most this."""

    bound: float


@dataclass(frozen=True)
class ScoreDrop:
    """The smallest model whose score is at most this much below the original's."""

    most: float


Goal = Share | ErrorBound | ScoreDrop
"""What decides the widths where thresholds do not."""


DEFAULT_TRIALS = 12
"""Models evaluated at most, the original included."""

PLACE = "{model}"
"""In the command that evaluates: where the path of the model goes."""

INSPECT_THRESHOLDS = (0.999, 0.95, 0.88, 0.7)


class Method(StrEnum):
    """How neurons are merged; a row of `merging.methods` says what each one does."""

    LOSSLESS = "lossless"
    AUTO = "auto"
    CALIBRATED = "calibrated"
    MOMENTS = "moments"
    RATIO = "ratio"
    DELETE = "delete"


class Depthwise(StrEnum):
    """Which stages of a depthwise-separable block are judged: every one, or its depthwise taps alone."""

    JOINT = "joint"
    KERNEL = "kernel"


Merge = Literal["auto", "calibrated", "moments", "ratio", "delete"]
Host = Literal["avx2", "avx512", "arm64"]


@dataclass(frozen=True)
class Options:
    """Options of one run. Every field has the name of its command-line option.

    Attributes:
        threshold: two neurons condense when their cosine is above it, 0 < threshold <= 1; None means 0.88.
        layer_threshold: thresholds for the layers that match a glob (node or weight names); the last match wins.
        lossless: merge only what is exact to float rounding. Excludes `threshold` and `merge`.
        merge: what becomes of condensed neurons. "ratio" is the paper's merge, "delete" drops them. "moments" also
            removes channels that nobody reads or that are constant, and gives consumers the weights that lose least
            by what the model says of its own channels; "calibrated" by calibration inputs. "auto" is "calibrated"
            with calibration inputs, else "moments". None means "auto".
        depthwise: "joint" judges every stage of a depthwise-separable block, "kernel" the depthwise taps alone.
        align: "auto" keeps Conv widths at multiples that onnxruntime wants on this host; a number is that multiple.
        align_for: the multiple for another host: "avx2", "avx512" or "arm64" (not measured). Excludes `align`.
        ensure_faster: measure the result against the original; dependency groups that make it slower are widened or
            rolled back until it is not shown slower, even if that exceeds a budget.
        include, exclude: globs over node or weight names; a group is taken when one of its layers matches
            `include` (empty: all) and none matches `exclude`.
        tolerance: bound of the approximation error, max over float outputs of ||a-b|| / ||a||.
        budget: ("params", share) or ("macs", share): the share that is kept, 0 < share <= 1. ("error", bound): the
            smallest model found whose approximation error is at most that. Excludes thresholds.
        evaluate: a command whose last line of output is a score, higher is better ("{model}" in it is replaced by the
            path of a model), or a function of a model that returns one. With `max_drop`, asks for the smallest model
            found whose score is at most that much below the original's. Excludes `budget` and thresholds.
        trials: models that are evaluated at most (the original's score counts as one); None means 12.
        data: verification inputs: path of an .npz, or arrays by input name, samples on axis 0; None generates them.
        calibration: inputs that "calibrated" estimates from, in the forms of `data`, or several of those; they verify
            too (a fifth, held back) where there is no `data`. Of several, files are read one at a time, when needed.
        input_shape: sizes for symbolic dimensions, e.g. {"image": (1, 3, 224, 224)}.
        sequential: the paper's order, layer after layer on already merged weights.
        fold_batchnorm: fold BatchNormalization into the weights in the file.
        seed: of the generated verification inputs.
    """

    threshold: float | None = None
    layer_threshold: tuple[tuple[str, float], ...] = ()
    lossless: bool = False
    merge: Merge | None = None
    depthwise: Depthwise | Literal["joint", "kernel"] = Depthwise.JOINT
    align: int | Literal["auto"] = "auto"
    align_for: Host | None = None
    ensure_faster: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tolerance: float | None = None
    budget: tuple[str, float] | None = None
    evaluate: str | Callable[[Any], float] | None = None
    max_drop: float | None = None
    trials: int | None = None
    data: Inputs | None = None
    calibration: Inputs | Iterable[Inputs] | None = None
    input_shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sequential: bool = False
    fold_batchnorm: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError when options contradict each other or are out of range."""
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} is a tuple of globs, not one string: pass ({getattr(self, name)!r},)")
        if isinstance(self.layer_threshold, str | Mapping):
            raise UsageError("layer_threshold is a tuple of pairs (glob, threshold)")
        thresholds = [t for _, t in self.layer_threshold]
        if self.threshold is not None:
            thresholds.append(self.threshold)
        for value in thresholds:
            if not 0 < value <= 1:
                raise UsageError(f"a threshold must satisfy 0 < T <= 1, not {value:g}: pass for example 0.88")
        if self.lossless and (self.threshold is not None or self.merge is not None or self.layer_threshold):
            raise UsageError(
                "--lossless decides by itself what is exact: drop --threshold, --layer-threshold and --merge"
            )
        if self.merge not in (None, *get_args(Merge)):
            raise UsageError(f"--merge is {', '.join(get_args(Merge))}, not {self.merge}")
        if self.merge == "calibrated" and self.calibration is None:
            raise UsageError("--merge calibrated estimates from inputs: give them with --calibration")
        if self.calibration is not None and (self.lossless or self.merge not in (None, "auto", "calibrated")):
            other = "--lossless" if self.lossless else f"--merge {self.merge}"
            raise UsageError(f"--calibration is not used with {other}: drop one of them")
        self._check_budget()
        if self.depthwise not in tuple(Depthwise):
            raise UsageError(f"--depthwise is joint or kernel, not {self.depthwise}")
        if self.align != "auto" and (not isinstance(self.align, int) or self.align < 1):
            raise UsageError(f"--align is auto or a positive whole number, not {self.align}: --align 1 turns it off")
        if self.align_for not in (None, *get_args(Host)):
            raise UsageError(f"--align-for is {', '.join(get_args(Host))}, not {self.align_for}")
        if self.align_for is not None and self.align != "auto":
            raise UsageError(f"--align-for {self.align_for} and --align {self.align} both state the multiple: drop one")
        if self.align_for is not None and self.ensure_faster:
            raise UsageError("--ensure-faster measures on this host, --align-for is for another one: drop one")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise UsageError(f"--tolerance must be a number of at least 0, not {self.tolerance}")

    def _check_budget(self) -> None:
        if self.budget is not None:
            unit, amount = self.budget
            if not (0 < amount <= 1 if unit in tuple(Unit) else unit == "error" and 0 <= amount < math.inf):
                raise UsageError(
                    "--budget is params=F or macs=F, the share 0 < F <= 1 to keep, or error=R, the largest error of "
                    f"the outputs, not {unit}={amount}"
                )
        if (self.evaluate is None) != (self.max_drop is None):
            raise UsageError("--evaluate and --max-drop go together: a score, and how much it may fall")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"--max-drop is what the score may fall by, at least 0, not {self.max_drop}")
        if self.trials is not None and not self.searches:
            raise UsageError("--trials bounds a search: it goes with --budget error=R or with --evaluate")
        least = 1 if self.evaluate is None else 2
        if self.trials is not None and self.trials < least:
            raise UsageError(f"--trials is at least {least}{', the original included' * (least - 1)}: ask for more")
        excluded = {
            "--budget": self.budget is not None and self.evaluate is not None,
            "--threshold": self.threshold is not None,
            "--layer-threshold": bool(self.layer_threshold),
            "--lossless": self.lossless,
            "--tolerance": self.tolerance is not None,
            "--sequential": self.sequential,
            "--ensure-faster": self.ensure_faster and self.searches,
        }
        for option, given in excluded.items():
            if self.budgeted and given:
                decides = "--budget" if self.evaluate is None else "--evaluate"
                raise UsageError(f"{decides} decides the widths: drop {option}")

    @property
    def goal(self) -> Goal | None:
        """What decides the widths, None where thresholds do."""
        if self.max_drop is not None:
            return ScoreDrop(self.max_drop)
        if self.budget is None:
            return None
        unit, amount = self.budget
        return ErrorBound(amount) if unit == "error" else Share(Unit(unit), amount)

    @property
    def budgeted(self) -> bool:
        """Whether widths follow from a budget or from a score, and not from thresholds."""
        return self.budget is not None or self.evaluate is not None

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
        """The options of a plan, from what `to_json` wrote; the tolerance is not asked for again."""
        lossless = bool(content["lossless"])
        merge, budget = content["merge"], content.get("budget")
        return Options(
            threshold=content["threshold"],
            layer_threshold=tuple((str(glob), float(value)) for glob, value in content["layer_threshold"]),
            lossless=lossless,
            merge=None if lossless else "auto" if merge == "calibrated" else merge,
            depthwise=content["depthwise"],
            align=align,
            include=tuple(content["include"]),
            exclude=tuple(content["exclude"]),
            budget=None if budget is None else (str(budget[0]), float(budget[1])),
            evaluate=content.get("evaluate"),
            max_drop=content.get("max_drop"),
            trials=content.get("trials"),
            sequential=content["sequential"],
            fold_batchnorm=content["fold_batchnorm"],
        )

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values, without the inputs."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("data", "calibration")}
        named["threshold"] = None if self.lossless or self.budgeted else (self.threshold or DEFAULT_THRESHOLD)
        named["merge"] = self.method
        named["budget"] = None if self.budget is None else list(self.budget)
        if callable(self.evaluate):
            named["evaluate"] = f"{self.evaluate.__module__}.{getattr(self.evaluate, '__qualname__', 'object')}"
        named["trials"] = (self.trials or DEFAULT_TRIALS) if self.searches else None
        named["layer_threshold"] = [list(pair) for pair in self.layer_threshold]
        named["include"], named["exclude"] = list(self.include), list(self.exclude)
        named["input_shape"] = {name: list(shape) for name, shape in self.input_shape.items()}
        return named
