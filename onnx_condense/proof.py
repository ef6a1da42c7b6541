"""The proof that a rewrite is right: the surgery error against the expanded twin, on every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_condense.actions import Activation, Move, Window
from onnx_condense.channels import Trace
from onnx_condense.errors import InputError, VerificationError
from onnx_condense.inputs import Feed
from onnx_condense.options import Options
from onnx_condense.report import VerificationReport
from onnx_condense.rewrite import Written
from onnx_condense.runtime import Array
from onnx_condense.signals import Bools
from onnx_condense.verify import Results, Verification, compare, nearest, results, surgery_limits, worse

INNER_TENSORS = 24
"""Intermediate tensors compared with the twin."""

TAIL = 4 * float(np.finfo(np.float32).eps)
"""Absolute error of a bounded function in float32."""

INNER_LIMIT = 1e-3
"""Their limit: far above rounding of any of them, far below any error of the rewrite."""


def prove(
    original: onnx.ModelProto,
    expected: Results,
    traced: Trace,
    feeds: Sequence[Feed],
    other: Feed | None,
    small: Written,
    twin: Written,
    options: Options,
) -> VerificationReport:
    """Compares small model, twin and original.

    Args:
        original: the input model. expected: its outputs on the feeds.
        traced: of the (canonicalized) model that small and twin were written from.
        other: a feed with other sizes on every symbolic axis, on which the surgery error is taken too.

    Raises:
        VerificationError: the surgery limit, the lossless promise or the tolerance is not met.
    """
    try:
        everything = [*feeds, other] if other is not None else feeds
        expanded, condensed = results(twin.model, everything), results(small.model, everything)
        count = len(feeds)
        surgery = compare(expanded[:count], condensed[:count], reference=expected)
        if other is not None:
            elsewhere = compare(expanded[count:], condensed[count:], reference=results(original, [other]))
            surgery = worse(surgery, elsewhere)
    except InputError as error:
        raise VerificationError(f"the rewritten model does not run ({error}): please report this model") from error
    noise = compare(results(original, feeds, optimize=False), expected)
    limits = surgery_limits(noise)
    bounded = bounded_outputs(traced)
    worst, limit = nearest(_settled(surgery, bounded), limits)
    approximation = compare(expected, condensed[:count])
    inner = _inner_error(traced, feeds[:1], small, twin)
    if not worst <= limit or not inner <= max(INNER_LIMIT, 100 * max(limits.values(), default=0.0)):
        raise VerificationError(
            f"the rewritten model is not what was planned (surgery error {max(worst, inner):.1e}, "
            f"limit {limit:.1e}): nothing is written; please report this model"
        )
    lost, bound = nearest(_settled(approximation, bounded), limits)
    if options.lossless and not lost <= bound:
        raise VerificationError(
            f"--lossless changed the outputs by {lost:.1e}, more than the limit {bound:.1e}: "
            "nothing is written; leave layers out with --exclude"
        )
    if options.tolerance is not None and not approximation.error <= options.tolerance:
        raise VerificationError(
            f"the error {approximation.error:.3g} is above --tolerance {options.tolerance:g}: "
            "nothing is written; raise the tolerance"
        )
    return VerificationReport(
        worst,
        limit,
        inner,
        surgery.mismatched,
        noise.error,
        approximation.error,
        approximation.mismatched,
        approximation.outputs,
        approximation.samples,
        options.data is None and options.calibration is None,
    )


def bounded_outputs(traced: Trace) -> set[str]:
    """Outputs that a bounded function makes (Sigmoid, Softmax, Tanh), maybe moved or averaged afterwards."""
    makers = {t.name: i for i, node in enumerate(traced.facts.nodes) for t in node.outputs}
    found = set()
    for output in traced.facts.graph.outputs:
        name = output.name
        while name in makers and isinstance(traced.actions.get(makers[name]), Move | Window):
            name = traced.facts.nodes[makers[name]].inputs[0].name
        action = traced.actions.get(makers.get(name, -1))
        if isinstance(action, Activation) and np.isfinite([action.low, action.high]).all():
            found.add(output.name)
    return found


def _settled(found: Verification, bounded: set[str]) -> Verification:
    """A bounded function is computed to an absolute error: in its tails that is all that can be asked for."""
    outputs = (replace(o, relative_l2=0.0) if o.name in bounded and o.max_abs <= TAIL else o for o in found.outputs)
    return replace(found, outputs=tuple(outputs))


def unchanged(expected: Results, options: Options) -> VerificationReport:
    """The report for a model that stays as it is."""
    same = compare(expected, expected)
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


def _inner_error(traced: Trace, feeds: Sequence[Feed], small: Written, twin: Written) -> float:
    """Small model against twin on consumers' outputs: model outputs are blind where they no longer depend on inputs."""
    nodes = traced.facts.nodes
    consumers = {
        s.node
        for s in traced.slots
        if s.role == "contracted" and any(t.name in small.alive for t in nodes[s.node].inputs)
    }
    names = [nodes[i].outputs[0].name for i in sorted(consumers)][:INNER_TENSORS]
    if not names:
        return 0.0
    left, right = (results(_exposing(w.model, names), feeds, optimize=False, wanted=names) for w in (twin, small))
    narrow = [{n: _narrow(value, small.alive.get(n, {})) for n, value in feed.items()} for feed in left]
    return compare(narrow, right).error


def _exposing(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {o.name for o in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    return probe


def _narrow(value: Array, lines: Mapping[int, Bools]) -> Array:
    for axis, line in lines.items():
        value = value.compress(line, axis)
    return value
