"""The proof that a rewrite is right: the surgery error against the expanded twin, on every run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_condense.arrays import FLOAT32, FLOATS, Array
from onnx_condense.errors import InputError, VerificationError
from onnx_condense.model import apart, wire
from onnx_condense.model.inputs import Feed
from onnx_condense.model.outputs import Outputs
from onnx_condense.model.parts import observe, prefix
from onnx_condense.operators.answers import Role
from onnx_condense.operators.classes import class_outputs
from onnx_condense.operators.queries import branch_sources
from onnx_condense.options import Options
from onnx_condense.proving.compare import (
    NOTHING_TOLD,
    OutputComparison,
    Results,
    Verification,
    compare,
    is_told,
    nearest,
    results,
    surgery_limits,
    worse,
)
from onnx_condense.proving.rounding import shaken
from onnx_condense.rewriting.writer import Written
from onnx_condense.tracing.trace import Trace

TAIL = FLOAT32.rounding
"""Absolute error of a bounded function in float32: an argument of size 16 is itself rounded to 16 units."""

INNER_TENSORS = 24
"""Intermediate tensors compared with the twin, at most."""

INNER_LIMIT = 1e-3
"""Relative L2 that those may differ by at least: far above rounding of any, far below any error of the rewrite."""

ROUNDED_LIMIT = 1e-2
"""The same where activations are rounded to a grid: rounding of floats sometimes becomes a step of the grid."""


@dataclass(frozen=True)
class VerificationReport:
    """Both error figures.

    Attributes:
        surgery_error, surgery_limit: condensed model against its expanded twin, relative L2.
        inner_error: the same over intermediate tensors, measured against their own size.
        surgery_integer_outputs_changed: outputs of labels that differ there (as between near equals).
        noise: the original against itself, onnxruntime's optimizations off and on.
        approximation_error: original against condensed model, the largest over outputs: relative L2 of floats, the
            share of labels (integers, truth values, strings) that changed. Not a number where nothing comparable was
            seen: then only intermediate tensors were compared, small model against twin.
        integer_outputs_changed: names.
        outputs: one comparison per output, original against condensed.
        samples, generated: how many, and whether they were generated.
    """

    surgery_error: float
    surgery_limit: float
    inner_error: float
    surgery_integer_outputs_changed: tuple[str, ...]
    noise: float
    approximation_error: float
    integer_outputs_changed: tuple[str, ...]
    outputs: tuple[OutputComparison, ...]
    samples: int
    generated: bool

    def beside(self, before: VerificationReport | None) -> VerificationReport:
        """With the surgery errors of a rewrite that came before, where they are larger."""
        if before is None:
            return self
        worst = max(self.surgery_error, before.surgery_error), max(self.inner_error, before.inner_error)
        return replace(self, surgery_error=worst[0], inner_error=worst[1])

    @property
    def measure(self) -> str:
        """What the approximation error is."""
        worst = max(self.outputs, key=lambda o: (np.isnan(o.relative_l2), o.relative_l2), default=None)
        return "relative L2" if worst is None or worst.is_float else f"share of {worst.name} that changed"


Sided = tuple[Results, Results]
"""What a model makes of the feeds, and of those with other sizes."""


@dataclass(frozen=True, eq=False)
class Case:
    """What a rewrite is proved on.

    Attributes:
        original: the input model.
        expected: its outputs on the feeds.
        feeds: inputs.
        others: feeds with other sizes on symbolic axes, on which the surgery error is taken too.
        told: whether the outputs on the feeds say anything (see `is_told`).
        unoptimized: its outputs on feeds and others without optimizations, as far as they are known.
        elsewhere: its outputs on the others, where they are known.
    """

    original: onnx.ModelProto
    expected: Results
    feeds: Sequence[Feed]
    others: Sequence[Feed]
    told: bool = True
    unoptimized: Sequence[Outputs | None] = ()
    elsewhere: Results | None = None

    def there(self) -> Results:
        """What the original makes of the others. Raises InputError."""
        if self.elsewhere is not None or not self.others:
            return self.elsewhere or []
        return results(self.original, self.others)

    def plain(self) -> Sided:
        """What the original makes of the feeds, and of the others, without optimizations. Raises InputError."""
        every = [*self.feeds, *self.others]
        known = list(self.unoptimized) or [None] * len(every)
        missing = [feed for feed, outputs in zip(every, known, strict=True) if outputs is None]
        asked = iter(results(self.original, missing, optimize=False) if missing else [])
        found = [next(asked) if outputs is None else outputs for outputs in known]
        return found[: len(self.feeds)], found[len(self.feeds) :]

    def outputs(self, model: onnx.ModelProto) -> Sided:
        """What a model makes of the feeds, and of the others. Raises InputError."""
        found = results(model, [*self.feeds, *self.others])
        return found[: len(self.feeds)], found[len(self.feeds) :]


@dataclass(frozen=True)
class _Found:
    """surgery: small model against twin. approximation: original against small model; promised: on the others too.

    noise: the original against itself, onnxruntime's optimizations off and on.
    """

    surgery: Verification
    approximation: Verification
    promised: Verification
    noise: Verification


Limits = Callable[[Verification], Mapping[str, float]]
"""From the noise of the original to what the small model may differ from the twin, by output."""


def prove(
    case: Case, traced: Trace, small: Written, twin: Written, options: Options, limits: Limits = surgery_limits
) -> VerificationReport:
    """Compares small model, twin and original.

    Args:
        case: the original and its inputs.
        traced: of the model, in its forms, that small and twin were written from.
        small: the condensed model.
        twin: its expanded twin.
        options: what was promised.
        limits: of the surgery error.

    Raises:
        VerificationError: the surgery limit, the lossless promise or the tolerance is not met, or nothing was compared.
    """
    found = _found(case, small, twin)
    bounded = bounded_outputs(traced)
    allowed = limits(_settled(found.noise, bounded))  # noise of tails says nothing of what is before them
    surgery = _settled(found.surgery, bounded)
    worst, limit = nearest(surgery, allowed)
    if worst > limit:
        rounding = _settled(worse(found.noise, _rounding(case, twin)), bounded)
        worst, limit = nearest(surgery, limits(rounding))
    inside = _inner(traced, small, twin)
    inner = inside.error
    if not worst <= limit or not inner <= _inner_limit(traced, found.noise, allowed):
        raise VerificationError(
            f"the rewritten model is not what was planned (surgery error {max(worst, inner):.1e}, "
            f"limit {limit:.1e}): nothing is written; please report this model"
        )
    if not case.told and (options.bounded or not inside.told):
        raise VerificationError(NOTHING_TOLD)
    folded = _folding_error(traced)
    lost = nearest(_settled(found.promised, bounded), {n: max(limit, folded) for n, limit in allowed.items()})
    _check_promises(options, lost, found.approximation)
    return VerificationReport(
        worst,
        limit,
        inner,
        found.surgery.mismatched,
        found.noise.float_error,
        found.approximation.error if case.told else np.nan,
        found.approximation.mismatched,
        found.approximation.outputs,
        found.approximation.samples,
        options.data is None and options.calibration is None,
    )


def _found(case: Case, small: Written, twin: Written) -> _Found:
    """Every comparison of outputs. Raises VerificationError where what was written does not run."""
    original, expected = case.original, case.expected
    try:
        expanded, condensed = (case.outputs(w.model) for w in (twin, small))
        approximation = promised = compare(expected, condensed[0]).of_classes(class_outputs(original))
        there = case.there()
        surgery = _between(expanded, condensed, (expected, there))
        for one, other in zip(there, condensed[1], strict=True):
            promised = worse(promised, compare([one], [other]))
    except InputError as error:
        raise VerificationError(f"the rewritten model does not run ({error}): please report this model") from error
    plain, plain_others = case.plain()
    noise = compare(plain, expected)
    for a, b in zip(plain_others, there, strict=True):
        noise = worse(noise, compare([a], [b]))
    return _Found(surgery, approximation, promised, noise)


def _between(one: Sided, other: Sided, original: Sided) -> Verification:
    """The larger of what two models differ by on the feeds, and on the others; the original's outputs give the size."""
    found = compare(one[0], other[0], reference=original[0])
    for left, right, there in zip(one[1], other[1], original[1], strict=True):
        found = worse(found, compare([left], [right], reference=[there]))
    return found


def _rounding(case: Case, twin: Written) -> Verification:
    """What the twin's outputs change by where each of its weights does by a unit of rounding."""
    original, plain = case.outputs(case.original), case.outputs(twin.model)
    found = _between(plain, plain, original)
    for model in shaken(twin.model):
        try:
            found = worse(found, _between(plain, case.outputs(model), original))
        except InputError:  # a size follows from weights
            continue
    return found


def _check_promises(options: Options, lost: tuple[float, float], approximation: Verification) -> None:
    """Raises VerificationError for --lossless and --tolerance. lost: the error and the limit of the former."""
    if options.lossless and not lost[0] <= lost[1]:
        raise VerificationError(
            f"--lossless changed the outputs by {lost[0]:.1e}, more than the limit {lost[1]:.1e}: "
            "nothing is written; leave layers out with --exclude"
        )
    if options.tolerance is not None and not approximation.error <= options.tolerance:
        raise VerificationError(
            f"the error {approximation.error:.3g} is above --tolerance {options.tolerance:g}: "
            "nothing is written; raise the tolerance"
        )


def _inner_limit(traced: Trace, noise: Verification, limits: Mapping[str, float]) -> float:
    """What intermediate tensors may differ by: `INNER_LIMIT`, or 100 times an output's limit (1 of a short type).

    With quantized weights the original's noise tells how far integers are from floats, nothing of rounding.
    """
    if any(traced.is_quantized(group) for group in traced.groups):
        return ROUNDED_LIMIT
    own = [limits[o.name] * (1 if FLOATS.get(o.dtype, FLOAT32).coarse else 100) for o in noise.outputs]
    return max(INNER_LIMIT, *own) if own else INNER_LIMIT


def _folding_error(traced: Trace) -> float:
    """What --lossless may change where sums of weights are rounded to a short type."""
    nodes, facts = traced.facts.nodes, traced.facts
    kinds = (facts.float_type(nodes[s.node].inputs[s.input].name) for s in traced.slots if s.role is Role.CONTRACTED)
    return max((kind.folding for kind in kinds if kind is not None), default=0.0)


def bounded_outputs(traced: Trace) -> set[str]:
    """Outputs that a bounded function makes (Sigmoid, Softmax, Tanh), maybe moved or averaged afterwards."""
    nodes = traced.facts.nodes
    makers = {t.name: i for i, node in enumerate(nodes) for t in node.outputs}

    def is_bounded(output: str) -> bool:
        waiting, seen = [output], {output}
        while waiting:
            name = waiting.pop()
            if name not in makers:
                return False
            node, action = nodes[makers[name]], traced.actions.get(makers[name])
            if action is not None and action.keeps_bounds:
                sources = [node.inputs[0].name]
            else:
                sources = branch_sources(node, [t.name for t in node.outputs].index(name))
                if not sources and (action is None or not action.bounded):
                    return False
            waiting += [source for source in sources if source not in seen]
            seen.update(sources)
        return True

    return {output.name for output in traced.facts.graph.outputs if is_bounded(output.name)}


def _settled(found: Verification, bounded: set[str]) -> Verification:
    """A bounded function is computed to an absolute error: in its tails that is all that can be asked for."""
    outputs = (replace(o, relative_l2=0.0) if o.name in bounded and o.max_abs <= TAIL else o for o in found.outputs)
    return replace(found, outputs=tuple(outputs))


def unchanged(model: onnx.ModelProto, expected: Results, options: Options) -> VerificationReport:
    """The report for a model that stays as it is."""
    same = compare(expected, expected).of_classes(class_outputs(model))
    return VerificationReport(
        0.0,
        0.0,
        0.0,
        (),
        0.0,
        0.0,
        (),
        same.outputs,
        same.samples,
        options.data is None and options.calibration is None,
    )


def _inner(traced: Trace, small: Written, twin: Written) -> Verification:
    """Small model against twin on consumers' outputs: model outputs are blind where they no longer depend on inputs.

    On the flat models, so that branches that are not taken count too.
    """
    nodes = traced.facts.nodes
    consumers = {
        s.node
        for s in traced.slots
        if s.role is Role.CONTRACTED and any(t.name in small.alive for t in nodes[s.node].inputs)
    }
    changed = sorted(consumers | small.factored)
    names = [next(t.name for t in nodes[i].outputs if t.name) for i in changed][:INNER_TENSORS]
    if not names:
        return Verification((), 0, told=False)
    feeds = [traced.facts.feed]
    left, right = (_observed(written.traced, names, feeds) for written in (twin, small))
    alive = small.alive
    narrow = [{n: alive[n].of(value) if n in alive else value for n, value in found.items()} for found in left]
    return replace(compare(narrow, right), told=is_told(None, narrow, feeds))


def _observed(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]) -> list[Mapping[str, Array]]:
    """The values of tensors inside a model, of any shape, feed by feed. Raises InputError."""
    if wire.size(model) < apart.APART_FROM:
        return [*observe(model, names, feeds, optimize=False)]
    return [*apart.outputs(prefix(model, names), feeds, optimize=False)]
