"""The pictures of a page: SVG that takes its colours from the page around it, the same bytes for the same numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from onnx_condense.errors import visible
from onnx_condense.pages.words import clipped, name_of

WIDTH = 3.6
"""Inches: text of ten points can be read where the picture is as wide as a phone."""

LINE = 0.36
"""Inches of a bar and its name."""

BARS = 60
"""Bars of a picture at most; a table beside it has them all."""

LETTERS = 36
"""Characters above a bar: its name, and its numbers."""

INK, MUTED, BEFORE, AFTER, OTHER = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f", "#0a0b10"
COLOURS = {INK: "--ink", MUTED: "--muted", BEFORE: "--before", AFTER: "--after", OTHER: "--other"}
"""What is drawn with, and the colour of the page that takes its place."""

STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}

Drawn = Mapping[str, "Picture"]


@dataclass(frozen=True)
class Picture:
    """An SVG element, and what is said of it below."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Bar:
    """A quantity before and after, and how both are written."""

    name: str
    before: float
    after: float
    text: str


def of_nothing(document: Mapping[str, Any]) -> Drawn:
    """No picture: a table says it all."""
    return {}


def of_report(document: Mapping[str, Any]) -> Drawn:
    """Sizes, widths (the paper's figure 7) and the Pareto front of a run."""
    drawn = {}
    before, after = document["input"], document["output"]
    if after is not None:
        sizes = [
            Bar(label, 1.0, after[key] / max(1, before[key]), f"{after[key] / max(1, before[key]):.1%}")
            for label, key in (("parameters", "parameters"), ("multiply-accumulates", "macs"), ("bytes", "bytes"))
        ]
        drawn["sizes"] = _bars(sizes, "Sizes after, as a share of those before")
    widths = [
        Bar(g["layers"][0], g["width_before"], g["width_after"], _change(g["width_before"], g["width_after"]))
        for g in document["groups"]
    ]
    if widths:
        drawn["widths"] = _bars(widths, "Channels of each group of layers, before and after")
    for place, cosines in enumerate(document.get("cosines", [])):
        drawn[f"cosines {place}"] = _matrices(cosines)
    if document["search"] is not None and document["search"]["candidates"]:
        drawn["front"] = _front(document["search"])
    return drawn


def of_analysis(document: Mapping[str, Any]) -> Drawn:
    """Widths at the lowest threshold."""
    bars, lowest = [], ""
    for group in document["groups"]:
        lowest = min(group["widths"], key=float)
        least = group["widths"][lowest]
        bars.append(Bar(group["layers"][0], group["width"], least, _change(group["width"], least)))
    return {"widths": _bars(bars, f"Channels of each group of layers, now and at threshold {lowest}")} if bars else {}


def of_difference(document: Mapping[str, Any]) -> Drawn:
    """Parameters of the layers that differ."""
    sizes = [(row["layer"], row["parameters_before"], row["parameters_after"]) for row in document["layers"]]
    bars = [Bar(name, before, after, _change(before, after)) for name, before, after in sizes]
    return {"parameters": _bars(bars, "Parameters of the layers that differ")} if bars else {}


def of_benchmark(document: Mapping[str, Any]) -> Drawn:
    """Median latencies with their intervals, by batch."""
    return {f"batch {place}": _latencies(batch) for place, batch in enumerate(document["batches"])}


def of_auto(document: Mapping[str, Any]) -> Drawn:
    """Score and parameters over training steps (the paper's figure 6), and thresholds."""
    drawn = {}
    if document["rounds"]:
        drawn["history"] = _history(document)
    thresholds = [
        Bar(row["layer"][0], 1.0, row["threshold"], f"{row['threshold']:.4f}") for row in document["thresholds"]
    ]
    if thresholds:
        drawn["thresholds"] = _bars(thresholds, "Threshold of each layer now", "Outlined: 1")
    return drawn


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def _bars(bars: Sequence[Bar], title: str, legend: str = "Outlined: before; filled: after") -> Picture:
    """A name and its numbers above an outline (before) with what is left of it filled."""
    order = sorted(range(len(bars)), key=lambda place: bars[place].after - bars[place].before)
    shown = [bars[place] for place in sorted(order[:BARS])]
    longest = max(max(bar.before, bar.after) for bar in shown) or 1

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.01, 0, 0.98, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(len(shown), 0)
        for place, bar in enumerate(shown):
            axes.text(0, place + 0.42, _label(bar.name, len(bar.text)), va="baseline")
            axes.text(1, place + 0.42, bar.text, va="baseline", ha="right")
            where = place + 0.7
            axes.barh(where, bar.after / longest, 0.3, color=AFTER, linewidth=0)
            axes.barh(where, bar.before / longest, 0.3, fill=False, edgecolor=BEFORE, linewidth=1)

    rest = f" The {BARS} that lose most of {len(bars)}; the table has all." if len(bars) > BARS else ""
    caption = f"{title}. {legend}.{rest}"
    return Picture(_svg(draw, len(shown) * LINE + 0.05, title), caption)


def _front(search: Mapping[str, Any]) -> Picture:
    """What was tried, and the front of it."""
    tried = [c for c in search["candidates"] if c["value"] is not None]
    front = sorted((c for c in tried if c["on_front"]), key=lambda c: c["parameters"])
    title = f"Parameters and {search['measure']} of the models that were tried"

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.step(*_points(front), where="post", color=AFTER, linewidth=1.2)
        for chosen, fill in ((True, AFTER), (False, "none")):
            found = [c for c in tried if c["accepted"] is chosen]
            axes.scatter(*_points(found), s=28, facecolors=fill, edgecolors=AFTER)
        if search["bound"] is not None:
            axes.axhline(search["bound"], color=OTHER, linewidth=1, linestyle="--")
        _named(axes, "parameters", search["measure"])

    limit = "most" if search["measure"] == "error" else "least"
    caption = f"{title}. Filled: within the bound (dashed, at {limit} {search['bound']}); line: the Pareto front."
    return Picture(_svg(draw, 2.6, title), caption)


def _matrices(found: Mapping[str, Any]) -> Picture:
    """Cosines between all channels, and between those that stay (the paper's figure 4)."""
    table, kept = np.array(found["cosines"]), np.array(found["kept"], dtype=bool)
    name = _label(found["layers"][0])
    title = f"Cosines between the channels of {name}, before and after"

    def draw(figure: Figure) -> None:
        pair = figure.subplots(1, 2)
        for axes, one, label in ((pair[0], table, "before"), (pair[1], table[np.ix_(kept, kept)], "after")):
            shown = axes.imshow(one, cmap="cividis", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{label}: {len(one)}", fontsize=10)
        figure.colorbar(shown, ax=pair, location="bottom", aspect=30, ticks=[-1, 0, 1])

    caption = f"{title}, those together that merge; those that are constant or unread are left out."
    return Picture(_svg(draw, 2.6, title), caption)


def _latencies(batch: Mapping[str, Any]) -> Picture:
    """Medians as points, with their intervals."""
    models = batch["models"]
    title = f"Median latency at batch {batch['batch']}"
    ends = [m["high"] if m["high"] is not None else m["median"] for m in models]
    longest = max(ends) or 1.0

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.01, 0, 0.98, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1.02)
        axes.set_ylim(len(models), 0)
        for place, model in enumerate(models):
            axes.text(0, place + 0.42, _label(name_of(model["model"])), va="baseline")
            axes.text(1.02, place + 0.42, f"{1e3 * model['median']:.4g} ms", va="baseline", ha="right")
            axes.barh(place + 0.7, model["median"] / longest, 0.3, color=AFTER, linewidth=0)
            if model["low"] is not None and model["high"] is not None:
                spread = [model["low"] / longest, model["high"] / longest]
                axes.plot(spread, [place + 0.7] * 2, color=INK, linewidth=2)

    return Picture(
        _svg(draw, len(models) * LINE + 0.05, title), f"{title}. Thin line: the 95 % interval of the median."
    )


def _history(document: Mapping[str, Any]) -> Picture:
    """Score and parameters after each round, and where the run is now; over rounds where nothing was trained."""
    rounds, points = document["rounds"], [document["start"], *document["rounds"], document["result"] or document["now"]]
    steps = [0, *accumulate(r["steps"] for r in rounds), document["steps"]]
    over = "training steps" if steps[-1] > len(rounds) else "rounds"
    places = steps if over == "training steps" else list(range(len(points)))
    title = f"Score and parameters over {over}"

    def draw(figure: Figure) -> None:
        score, size = figure.subplots(2, 1, sharex=True)
        known = [(x, p["score"]) for x, p in zip(places, points, strict=True) if p["score"] is not None]
        score.plot([k[0] for k in known], [k[1] for k in known], "o-", color=AFTER, markersize=4, linewidth=1.2)
        criteria = [r["criterion"] for r in rounds]
        score.step(places[: len(criteria)], criteria, where="post", color=OTHER, linestyle="--", linewidth=1)
        size.step(places, [p["parameters"] for p in points], where="post", color=AFTER, linewidth=1.2)
        size.set_ylim(bottom=0)
        size.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _named(score, "", "score")
        _named(size, over, "parameters")

    caption = f"{title}; points: the start, each round, now. Dashed: the main criterion."
    return Picture(_svg(draw, 3.8, title), caption)


def _label(name: str, beside: int = 10) -> str:
    return clipped(visible(name), LETTERS - beside)


def _points(candidates: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    return [c["parameters"] for c in candidates], [c["value"] for c in candidates]


def _named(axes: Axes, below: str, beside: str) -> None:
    """Names of both axes, the second one above its axis, where it takes no width; few ticks, none in powers."""
    axes.set_xlabel(below)
    axes.set_title(beside, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _svg(draw: Callable[[Figure], None], height: float, title: str) -> Markup:
    """An SVG element for a page: no identifiers that two of them may share, no metadata, colours by name."""
    text = StringIO()
    with style.context(["default", STYLE | {"svg.hashsalt": title}]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font lacks: the reader's own has them
        figure = Figure(figsize=(WIDTH, height), layout="constrained" if height > 2 else None)
        draw(figure)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    found = text.getvalue()
    body = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", found[found.index("<svg") :], flags=re.S
    )
    body = re.sub(r'<g id="[^"]*"', "<g", body[body.index(">") + 1 :])
    body = body.replace(" font-family: 'DejaVu Sans';", "")  # the page has one, which is narrower
    for drawn, named in COLOURS.items():
        body = body.replace(f": {drawn}", f": var({named})")
    box = f"0 0 {72 * WIDTH:g} {72 * height:g}"
    head = Markup('<svg role="img" aria-label="{}" viewBox="{}">').format(escape(visible(title)), box)
    return head + Markup(body)
