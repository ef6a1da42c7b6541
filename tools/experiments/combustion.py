"""The paper's combustion experiment: a network takes the place of stiff chemistry, is condensed, and ignites mixtures.

    pip install '.[torch,combustion]' && python tools/experiments/combustion.py --work DIR [--mechanism FILE.yaml]
        [--fuel CH4] [--threads N] [--seconds S] [--toy] [--json OUT.json] [--deliver NAME] [STAGE ...]

Cantera integrates ignitions of a fuel in air at constant pressure (0-D), with a mechanism that is a file (default:
gri30.yaml, which Cantera brings). A network 3200-1600-800-400 learns the change of T, ln p and the Box-Cox transformed
mass fractions over one step, from small Gaussian weights. Then, each in its stages:

* paper: the three reductions by hand of the paper's Table 1 (the first layer at 0.9, then at 0.8, the second at 0.999,
  merged in its way), each trained before the next;
* ours: calibrated merging to a share of the parameters, without training (untrained-SHARE), and one training after
  (tuned-SHARE);
* svd-SHARE and svd-tuned-SHARE: low rank instead of condensation;
* direct-SHARE: a network of the widths that ours has at that share, trained from the start, for as many steps;
* long-SHARE and direct-long-SHARE: both again at the smallest share, trained further for LONGER times the steps of the
  original (which still takes less of the processor than the original's training).

Networks are judged on ignitions that were not learned: the loss of one step, and ignition delays over a grid, against
Cantera. A stage that has run is not run again; without names, all run, in order. DIR holds the models and a JSON for
each stage, --json gets all of them (default for a run that is no toy: tools/experiments/combustion.json).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from _chemistry import Array, Kinetics, Sampling, features, sample
from _stages import ROOT, Facts, Work, arguments, raced
from _surrogate import Grid, Scaling, absolute, annealed, exported, factored, fit, layered, loss_of, told, tuned
from onnx import numpy_helper

from onnx_condense import Options, condense
from onnx_condense.operators.queries import count_parameters
from onnx_condense.torch import Samples

REDUCTIONS = ((1, 0.9), (1, 0.8), (2, 0.999))
"""The paper's: (layer, condensation threshold)."""

BINS = 40
"""Of cosines."""

DELIVERED = ROOT / "models" / "combustion.condensed.onnx"

LONGER = 3
"""Times the original's steps, of the trainings that are to see where small networks end."""


@dataclass(frozen=True)
class Plan:
    """How large everything is.

    Attributes:
        sampling: of the ignitions.
        seed: of the ignitions, the weights and the batches.
        hidden: widths of the network.
        exponent: of the small weights; 0.5 is the usual size.
        batch: samples of a step.
        steps: of the first training.
        retrained: steps after each of the paper's reductions; ours has those of all three in one.
        rate: learning rate of the first training.
        retrained_rate: of every training after.
        shares: of the parameters, that are reached without training.
        tuned: of those, the shares that are trained after, and directly.
        low_rank: shares that SVD reaches, beside the smallest that ours is trained at.
        low_rank_tuned: of those, the ones that are trained after, beside the same.
        calibration: states that merging sees.
        grid: temperatures, pressures in atm and equivalence ratios of the ignitions that judge.
    """

    sampling: Sampling
    seed: int = 0
    hidden: tuple[int, ...] = (3200, 1600, 800, 400)
    exponent: float = 0.75
    batch: int = 128
    steps: int = 2000
    retrained: int = 200
    rate: float = 1e-3
    retrained_rate: float = 3e-4
    shares: tuple[float, ...] = (0.419, 0.2, 0.1, 0.05, 0.02)
    tuned: tuple[float, ...] = (0.2, 0.1, 0.05)
    low_rank: tuple[float, ...] = (0.419, 0.2)
    low_rank_tuned: tuple[float, ...] = (0.2,)
    calibration: int = 1024
    grid: tuple[tuple[float, ...], ...] = ((1400.0, 1500.0, 1600.0), (1.0, 2.0), (0.6, 1.0, 1.5))

    def toy(self) -> Plan:
        """The same, to be done in seconds."""
        few = replace(self.sampling, ignitions=20, states=6, step=1e-6, temperatures=(1200.0, 1400.0))
        return replace(
            self,
            sampling=few,
            hidden=(24, 16, 12, 8),
            batch=32,
            steps=40,
            retrained=5,
            shares=(0.5,),
            tuned=(0.5,),
            low_rank=(0.8,),
            low_rank_tuned=(0.8,),
            calibration=64,
            grid=((1300.0,), (1.0,), (1.0,)),
        )


class Experiment:
    """The stages of one run; `seconds` is what a race lasts at most."""

    def __init__(self, plan: Plan, work: Work, seconds: float) -> None:
        self.plan, self.work, self.seconds = plan, work, seconds

    # ------------------------------------------------------------------------------------------------ data

    def sampled(self) -> Facts:
        """The states and the same a step later, in data.npz."""
        before, after, ignitions = sample(self.plan.sampling, self.plan.seed)
        np.savez(self.work.path("data.npz"), before=before, after=after, ignitions=ignitions)
        low, high = before.min(0), before.max(0)
        return {
            "pairs": len(before),
            "temperatures": [float(low[0]), float(high[0])],
            "pressures": [float(low[1]), float(high[1])],
        }

    @cached_property
    def data(self) -> dict[str, Array]:
        """Inputs and targets [n, d] to train on, to choose on, and to test on: of other ignitions each."""
        with np.load(self.work.path("data.npz")) as held:
            before, after, which = held["before"], held["after"], held["ignitions"] % 20
        values = features(before)
        changes = features(after) - values
        scaling = self._scaling(values[which > 1], changes[which > 1])
        inputs, targets = scaling.inputs(values), scaling.targets(changes)
        parts = {"held": which == 0, "test": which == 1, "train": which > 1}
        return {f"{n}_{side}": v[r] for n, r in parts.items() for side, v in (("x", inputs), ("y", targets))}

    def _scaling(self, values: Array, changes: Array) -> Scaling:
        self.scaling = Scaling.of(values, changes)
        return self.scaling

    @cached_property
    def samples(self) -> Samples:
        return Samples(self.data["train_x"], self.data["train_y"])

    @cached_property
    def grid(self) -> Grid:
        sampling = self.plan.sampling
        conditions = list(product(*self.plan.grid))
        return Grid.of(Kinetics(sampling.mechanism), conditions, sampling.fuel, sampling.step)  # type: ignore[arg-type]

    def integrated(self) -> Facts:
        """Cantera's own delays, and what a step costs it, in the two ways of stepping."""
        grid, step = self.grid, self.plan.sampling.step
        kinetics = Kinetics(self.plan.sampling.mechanism)
        states = grid.starts[0]
        begun = time.process_time()
        found = kinetics.at(states, step * np.arange(1, 200))
        ahead = (time.process_time() - begun) / 199
        begun = time.process_time()
        for state in found[:50]:
            kinetics.at(state, np.array([step]))
        again = (time.process_time() - begun) / 50
        return {
            "conditions": grid.conditions,
            "delays": [float(f"{value:.4g}") for value in grid.delays],
            "curve": [round(float(value), 1) for value in grid.curves[0][:: max(len(grid.curves[0]) // 200, 1)]],
            "microseconds_ahead": round(1e6 * ahead, 1),
            "microseconds_again": round(1e6 * again, 1),
        }

    # ------------------------------------------------------------------------------------------------ networks

    def _trained(self, widths: tuple[int, ...], steps: int, name: str) -> Facts:
        """A network of these widths from small weights."""
        data, size = self.data, self.data["train_x"].shape[1]
        network = layered((size, *widths, data["train_y"].shape[1]), self.plan.exponent, self.plan.seed)
        schedule = annealed(steps, self.plan.rate, self.plan.batch)
        losses = fit(network, self.samples, told(absolute, steps, name), steps, schedule)
        exported(network, size, self.work.model(name), self.scaling)
        return self._described(name) | {"losses": thinned(losses), "steps": steps}

    def _retrained(self, source: str, target: str, steps: int, rate: float | None = None) -> Facts:
        """A model trained on."""
        schedule = annealed(steps, rate or self.plan.retrained_rate, self.plan.batch)
        losses = tuned(self.work.model(source), self.work.model(target), self.samples, schedule)
        return self._described(target) | {"losses": thinned(losses), "steps": steps}

    def _described(self, name: str) -> Facts:
        """Size and loss on the states that choose."""
        model = onnx.load(self.work.model(name))
        whole = count_parameters(onnx.load(self.work.model("original")).graph)[0]
        parameters = count_parameters(model.graph)[0]
        widths = [t.dims[0] for t in model.graph.initializer if len(t.dims) == 2]
        loss = loss_of(self.work.model(name), self.data["held_x"], self.data["held_y"])
        return {"parameters": parameters, "share": parameters / whole, "widths": widths, "loss": loss}

    def original(self) -> Facts:
        return self._trained(self.plan.hidden, self.plan.steps, "original")

    def paper(self, number: int) -> Facts:
        """One of the paper's reductions, and the training after it."""
        layer, threshold = REDUCTIONS[number - 1]
        source = "original" if number == 1 else f"paper-{number - 1}"
        before = self._described(source)["loss"]
        options = Options(threshold=threshold, merge="ratio", include=(f"layer{layer}.weight",), align=1)
        onnx.save(condense(self.work.model(source), options).model, self.work.model(f"paper-{number}-reduced"))
        reduced = self._described(f"paper-{number}-reduced")
        trained = self._retrained(f"paper-{number}-reduced", f"paper-{number}", self.plan.retrained)
        return trained | {"layer": layer, "threshold": threshold, "before": before, "reduced": reduced["loss"]}

    def untrained(self, share: float) -> Facts:
        """Calibrated merging to a share."""
        seen = self.data["train_x"]
        rows = np.random.default_rng(self.plan.seed).choice(len(seen), min(self.plan.calibration, len(seen)), False)
        options = Options(budget=("params", share), merge="calibrated", align=1, calibration={"state": seen[rows]})
        done = condense(self.work.model("original"), options)
        onnx.save(done.model, self.work.model(f"untrained-{share}"))
        return self._described(f"untrained-{share}")

    def tuned(self, share: float) -> Facts:
        """One training after it, as long as the paper's three together."""
        return self._retrained(f"untrained-{share}", f"tuned-{share}", 3 * self.plan.retrained)

    def svd(self, share: float) -> Facts:
        factored(self.work.model("original"), self.work.model(f"svd-{share}"), share)
        return self._described(f"svd-{share}")

    def svd_tuned(self, share: float) -> Facts:
        return self._retrained(f"svd-{share}", f"svd-tuned-{share}", 3 * self.plan.retrained)

    def direct(self, share: float) -> Facts:
        """A network of the same widths, for the steps of both trainings."""
        *hidden, _ = self._described(f"untrained-{share}")["widths"]
        return self._trained(tuple(hidden), self.plan.steps + 3 * self.plan.retrained, f"direct-{share}")

    def longer(self, source: str, target: str) -> Facts:
        """A network trained further, at the rate of a first training."""
        return self._retrained(source, target, LONGER * self.plan.steps, self.plan.rate)

    def judged(self, name: str) -> Facts:
        """Loss on test states and delays over the grid, of one network; its temperatures in the first ignition."""
        path = self.work.model(name)
        curve = self.grid.followed(path)[0][0]
        facts = self.grid.judged(path) | {"loss": loss_of(path, self.data["test_x"], self.data["test_y"])}
        return facts | {"curve": [round(float(value), 1) for value in curve[:: max(len(curve) // 200, 1)]]}

    def raced(self) -> Facts:
        """Latencies against the original's."""
        smaller = {f"tuned-{share}": self.work.model(f"tuned-{share}") for share in self.plan.tuned}
        return {"rows": raced(self.work.model("original"), smaller, self.seconds)}

    def delivered(self, name: str, target: Path) -> None:
        """Copies a network, and puts states that test it beside it."""
        onnx.save(onnx.load(self.work.model(name)), target)
        states, change = self.data["test_x"], self.data["test_y"]
        np.savez_compressed(target.with_suffix("").with_suffix(".test.npz"), state=states, target=change)

    def cosines(self) -> Facts:
        """How far the second layer's neurons are aligned, before and right after each reduction of the first."""
        names = ("original", "paper-1-reduced", "paper-2-reduced")
        return {"bins": BINS, "shares": {name: alignment(onnx.load(self.work.model(name)), 2) for name in names}}

    # ------------------------------------------------------------------------------------------------ order

    def stages(self) -> dict[str, Callable[[], Facts]]:
        """Every stage, in order; what judges comes after what it judges."""
        plan, least = self.plan, self.plan.tuned[-1]
        made: dict[str, Callable[[], Facts]] = {"original": self.original}
        made |= {f"untrained-{share}": partial(self.untrained, share) for share in plan.shares}
        made |= {f"tuned-{share}": partial(self.tuned, share) for share in plan.tuned}
        made |= {f"paper-{number}": partial(self.paper, number) for number in (1, 2, 3)}
        made |= {f"svd-{share}": partial(self.svd, share) for share in plan.low_rank}
        made |= {f"direct-{share}": partial(self.direct, share) for share in plan.tuned}
        made |= {f"svd-tuned-{share}": partial(self.svd_tuned, share) for share in plan.low_rank_tuned}
        made |= {f"svd-{least}": partial(self.svd, least), f"svd-tuned-{least}": partial(self.svd_tuned, least)}
        made[f"long-{least}"] = partial(self.longer, f"tuned-{least}", f"long-{least}")
        made[f"direct-long-{least}"] = partial(self.longer, f"direct-{least}", f"direct-long-{least}")
        judged = {f"judged-{name}": partial(self.judged, name) for name in made}
        seen = {"cosines": self.cosines, "raced": self.raced}
        return {"sampled": self.sampled, "integrated": self.integrated} | made | seen | judged


def alignment(model: onnx.ModelProto, number: int) -> list[float]:
    """The share of the pairs of a layer's neurons in each of BINS stretches of cosines from -1 to 1."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rows = np.hstack([stored[f"layer{number}.weight"], stored[f"layer{number}.bias"][:, None]]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    counts, _ = np.histogram(cosines, BINS, (-1.0, 1.0))
    return [float(f"{share:.4g}") for share in counts / max(len(cosines), 1)]


def thinned(losses: list[float], points: int = 60) -> list[float]:
    """Means of so many stretches."""
    return [float(f"{part.mean():.4g}") for part in np.array_split(np.array(losses), min(points, len(losses)))]


def main() -> None:
    """Runs the stages that are asked for."""
    parser = arguments(__doc__, threads=1, seconds=5.0)
    add: Any = parser.add_argument
    add("--mechanism", default="gri30.yaml", metavar="FILE.yaml")
    add("--fuel", default="CH4")
    add("--deliver", metavar="NAME", help=f"a network that is there, to {DELIVERED.relative_to(ROOT)}; no stage runs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan(Sampling(given.mechanism, given.fuel))
    plan = plan.toy() if given.toy else plan
    named = asdict(plan) | {"sampling": asdict(plan.sampling) | {"mechanism": Path(given.mechanism).name}}
    work = Work(given.work, named)
    experiment = Experiment(plan, work, given.seconds)
    if given.deliver:
        experiment.delivered(given.deliver, DELIVERED)
        return
    work.asked(parser, experiment.stages(), "combustion")


if __name__ == "__main__":
    main()
