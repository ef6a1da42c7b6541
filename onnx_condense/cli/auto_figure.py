"""The paper's figure 6: score, parameters and thresholds of an automatic reduction over its training steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx_condense.auto.folder import Folder
from onnx_condense.auto.machine import apply, replay, settings_of
from onnx_condense.auto.status import events_of, short_name
from onnx_condense.errors import UsageError, visible
from onnx_condense.extras import need

LEGEND_LINE = 0.18
"""Height of a line of the legend, in inches."""


@dataclass
class _Curves:
    """What the figure shows, over training steps."""

    scores: list[tuple[int, float]] = field(default_factory=list)
    sizes: list[tuple[int, float]] = field(default_factory=list)
    criteria: list[tuple[int, float, float]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    thresholds: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def _curves(events: list[dict[str, Any]]) -> _Curves:
    curves = _Curves()
    state = replay(settings_of(events[0]), [])
    for event in events:
        state = apply(state, event)
        step = state.total_steps
        curves.sizes.append((step, state.now.parameters))
        if event["event"] in ("evaluated", "trained", "reverted") and state.now.score is not None:
            curves.scores.append((step, state.now.score))
        if event["event"] == "round":
            curves.rounds.append(step)
        if event["event"] == "reduced":
            curves.thresholds.setdefault(short_name(event["layer"]), []).append((step, event["threshold"]))
        if state.goals is not None:
            curves.criteria.append((step, state.criterion, state.layer_criterion))
    return curves


def plot(folder: Folder, target: Path) -> None:
    """Draws score, parameters and thresholds over training steps, as the paper's figure 6. Raises UsageError."""
    need("--plot", "plot", ["matplotlib"])
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    curves = _curves(events_of(folder))
    shown = {name: f" {visible(name)}" for name in curves.thresholds}  # a label that begins with _ is left out
    names = list(shown)
    figure = Figure(figsize=(9, 9 + LEGEND_LINE * len(names) / 2), layout="constrained")
    score, size, threshold = figure.subplots(3, 1, sharex=True)
    score.plot(*_columns(curves.scores), linewidth=1, label="score")
    steps = [c[0] for c in curves.criteria]
    for column, name in ((1, "main criterion"), (2, "layer criterion")):
        score.step(steps, [c[column] for c in curves.criteria], where="post", linewidth=1, linestyle="--", label=name)
    size.step(*_columns(curves.sizes), where="post")
    for number, name in enumerate(names, 1):
        color = colormaps["turbo"](number / (len(names) + 1))
        threshold.plot(
            *_columns(curves.thresholds[name]), "o-", markersize=3, linewidth=1, label=shown[name], color=color
        )
    for axis, name in ((score, "score"), (size, "parameters"), (threshold, "threshold")):
        axis.set_ylabel(name)
        for step in curves.rounds:
            axis.axvline(step, color="0.85", linewidth=0.8, zorder=0)
    size.set_ylim(bottom=0)
    score.legend(fontsize="small")
    if names:
        handles = threshold.get_legend_handles_labels()
        legend = figure.legend(*handles, loc="outside lower left", fontsize="x-small", ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(False)
    threshold.set_xlabel("training steps (vertical lines: rounds begin)")
    try:
        figure.savefig(target)
    except (OSError, ValueError) as error:
        raise UsageError(f"--plot {target} cannot be written ({error}): name an .svg, .png or .pdf") from error


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]
