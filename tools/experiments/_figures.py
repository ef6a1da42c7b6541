"""The experiments' figures, in the order of the paper's: losses, alignment, delays against weights, ignitions."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("svg")

import numpy as np
from _pictures import STYLE, save
from _stages import HERE, Facts
from matplotlib import pyplot

LOOKS: dict[str, Any] = {"original": "k*", "paper": "C0o", "untrained": "C1s", "tuned": "C2D", "svd": "C3v"}
LOOKS |= {"svd-tuned": "C3^", "direct": "C4x", "long": "C2*", "direct-long": "C4*"}


def draw(combustion: Facts, cifar10: Facts) -> None:
    """All that there are numbers for."""
    matplotlib.rcParams.update(STYLE | {"svg.hashsalt": "experiments", "axes.grid": True, "grid.alpha": 0.3})
    if "original" in combustion["stages"]:
        _combustion(combustion)
    if "start" in cifar10["stages"]:
        _training(cifar10)


def _save(figure: Any, name: str) -> None:
    figure.tight_layout()
    save(figure, HERE / f"{name}.svg", f"What the experiment {name} left")
    pyplot.close(figure)


def _combustion(content: Facts) -> None:
    stages = content["stages"]
    figure, ((losses, cosines), (errors, heat)) = pyplot.subplots(2, 2, figsize=(9, 7.6))
    begun = 0
    for name in ("original", "paper-1", "paper-2", "paper-3"):
        if name in stages:
            steps = stages[name]["steps"]
            where = begun + steps * (np.arange(len(stages[name]["losses"])) + 0.5) / len(stages[name]["losses"])
            losses.plot(where, stages[name]["losses"], label=name)
            begun += steps
    losses.set(xlabel="step", ylabel="loss in training", yscale="log", title="Losses (the paper's Figure 3)")
    losses.legend()
    for name, shares in stages.get("cosines", {"shares": {}})["shares"].items():
        cosines.plot(np.linspace(-1, 1, len(shares) + 1)[:-1] + 1 / len(shares), shares, label=name)
    cosines.set(xlabel="cosine", ylabel="share of pairs", title="Neurons of layer 2 (the paper's Figure 4)")
    cosines.legend()
    _errors(errors, stages)
    _ignitions(heat, content)
    _save(figure, "combustion")


def _errors(axes: Any, stages: Facts) -> None:
    """Delay errors against weights."""
    for kind, look in LOOKS.items():
        names = [n for n in stages if f"judged-{n}" in stages and (n.rpartition("-")[0] or n) == kind]
        points = sorted((stages[n]["share"], stages[f"judged-{n}"]["delay_error"]) for n in names)
        if points:
            axes.plot(*np.array(points).T, look + ("" if len(points) == 1 else "-"), label=kind)
    axes.set(xlabel="share of the parameters", ylabel="mean error of delays", xscale="log", yscale="log")
    axes.set_title("Ignition delays")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)


def _ignitions(axes: Any, content: Facts) -> None:
    """Temperatures in the first ignition of the grid."""
    stages = content["stages"]
    if "integrated" not in stages:
        return
    truth = stages["integrated"]
    axes.plot(truth["curve"], "k", lw=3, alpha=0.3, label="Cantera")
    for name in ("original", "tuned-0.2", "tuned-0.05", "long-0.05", "direct-long-0.05"):
        if f"judged-{name}" in stages:
            axes.plot(stages[f"judged-{name}"]["curve"], label=name)
    temperature, pressure, ratio = truth["conditions"][0]
    axes.set(xlabel="time (two delays in all)", ylabel="T [K]", ylim=(temperature - 100, 3500))
    axes.set_title(f"{temperature:g} K, {pressure:g} atm, ratio {ratio:g}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)


def _training(content: Facts) -> None:
    """The start's accuracy, and that of all that was made of it, against parameters (the paper's Figures 6 and 7)."""
    stages = content["stages"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    log = stages["start"]["log"]
    left.plot([row["epoch"] for row in log], [100 * row["held"] for row in log])
    left.set(xlabel="epoch", ylabel="accuracy, %", title="The start")
    for images in sorted({name.split("-")[1] for name in stages if name.startswith("merged-")}, key=int):
        points = sorted((f["share"], 100 * f["held"]) for n, f in stages.items() if n.startswith(f"merged-{images}-"))
        right.plot(*np.array(points).T, "o-", label=f"{images} images, not trained")
    for kind in ("tuned", "taught", "scratch"):
        points = sorted((f["share"], 100 * f["held"]) for n, f in stages.items() if n.startswith(f"{kind}-"))
        if points:
            right.plot(*np.array(points).T, "x-", label=kind)
    peer = [(f["share"], 100 * f["held"]) for n, f in stages.items() if n.startswith("torch-pruning-")]
    if peer:
        right.plot(*np.array(sorted(peer)).T, "s", label="Torch-Pruning")
    ticks = sorted({1.0, *(round(f["share"], 3) for n, f in stages.items() if n.startswith("merged-"))})
    right.set(xlabel="parameters", xscale="log", title="What is left", ylim=(0, 100), xlim=(0.9 * ticks[0], 1.1))
    right.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    right.minorticks_off()
    right.axhline(100 * stages["start"]["held"], color="gray", linestyle=":", label="the start")
    right.legend(loc="lower right")
    _save(figure, "cifar10")
