"""Which options contradict which."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx_condense.goals import Latency

if TYPE_CHECKING:
    from onnx_condense.options import Options


def _lossless_decides(o: Options) -> str | None:
    if o.lossless and (o.threshold is not None or o.merge is not None or o.layer_threshold):
        return "--lossless decides by itself what is exact: drop --threshold, --layer-threshold and --merge"
    return None


def _calibrated_needs_inputs(o: Options) -> str | None:
    if o.merge == "calibrated" and o.calibration is None:
        return "--merge calibrated estimates from inputs: give them with --calibration"
    return None


def _inputs_are_for_calibrated(o: Options) -> str | None:
    if o.calibration is None or o.method in ("auto", "calibrated"):
        return None
    other = "--lossless" if o.lossless else f"--merge {o.merge}"
    return f"--calibration is not used with {other}: drop one of them"


def _score_and_drop(o: Options) -> str | None:
    if (o.evaluate is None) != (o.max_drop is None):
        return "--evaluate and --max-drop go together: a score, and how much it may fall"
    return None


def _trials_bound_a_search(o: Options) -> str | None:
    if o.trials is None:
        return None
    if not o.searches:
        return "--trials bounds a search: it goes with --budget error=R or with --evaluate"
    least = 1 if o.evaluate is None else 2
    if o.trials < least:
        return f"--trials is at least {least}{', the original included' * (least - 1)}: ask for more"
    return None


def _one_decides_the_widths(o: Options) -> str | None:
    others = {
        "--budget": o.budget is not None and o.evaluate is not None,
        "--threshold": o.threshold is not None,
        "--layer-threshold": bool(o.layer_threshold),
        "--lossless": o.lossless,
        "--tolerance": o.tolerance is not None,
        "--sequential": o.sequential,
        "--ensure-faster": o.ensure_faster and o.searches,
    }
    given = [other for other, is_given in others.items() if is_given]
    decides = "--budget" if o.evaluate is None else "--evaluate"
    return f"{decides} decides the widths: drop {given[0]}" if o.budgeted and given else None


def _of_a_latency(o: Options) -> str | None:
    planned = isinstance(o.goal, Latency)
    given = {"--latency-for": o.latency_for is not None, "--threads": o.threads, "--batch": o.batch is not None}
    for name, is_given in given.items():
        if is_given and not planned:
            return f"{name} goes with --budget latency=F: drop it, or ask for a latency"
        if is_given and o.latency_for is not None and name != "--latency-for":
            return f"--latency-for names a table that says with how many threads and at which batch size: drop {name}"
    if planned and o.ensure_faster:
        return "--budget latency=F measures by itself: drop --ensure-faster"
    return None


def _another_host(o: Options) -> str | None:
    if o.align_for is not None and o.align != "auto":
        return f"--align-for {o.align_for} and --align {o.align} both state the multiple: drop one"
    if o.align_for is not None and o.ensure_faster:
        return "--ensure-faster measures on this host, --align-for is for another one: drop one"
    return None


EXCLUSIONS: tuple[Callable[[Options], str | None], ...] = (
    _lossless_decides,
    _calibrated_needs_inputs,
    _inputs_are_for_calibrated,
    _score_and_drop,
    _trials_bound_a_search,
    _one_decides_the_widths,
    _another_host,
    _of_a_latency,
)
"""What contradicts what: each says so, or nothing."""
