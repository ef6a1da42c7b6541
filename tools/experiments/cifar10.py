"""The paper's classification experiment: MobileNetV2 on CIFAR-10, condensed with and without training.

    pip install '.[torch]' --group peers && python tools/experiments/cifar10.py --work DIR --data DATA
        [--other MODEL.onnx] [--threads N] [--seconds S] [--toy] [--json OUT.json] [STAGE ...]

DATA is an .npz with train_x, train_y, test_x, test_y, or a folder with a load.py whose load() returns them. The stages:

* start: MobileNetV2 (2,236,682 parameters) from small Gaussian weights: stochastic gradient descent with cosine
  annealing, the first epochs on crops of 24 pixels, then Adam, then further cosines. 2,000 training images validate;
* merged-IMAGES-SHARE: calibrated merging to a share with so many unlabelled images (0: without data), no training;
* aligned-SHARE: the same with 1,024 images, of widths that run fast on this host;
* other-SHARE: the same of --other with 256 images;
* tuned-SHARE and taught-SHARE: merged with 1,024 images, then trained on with labels, or by distillation;
* scratch-SHARE: a network of as many parameters, of the widths that merging finds where nothing but widths changes,
  from small weights, for as many epochs as both trainings together;
* torch-pruning-SHARE, onnxsim-SHARE, and the same with -tuned and -gentle: the peers, trained on for as long as ours,
  at the recipe's rate and at ours, a tenth of it;
* paper and auto: the automatic reduction in the paper's way (`--depthwise kernel --merge ratio`, the last layer at
  0.4), and with calibrated merging;
* raced-SHARE: latencies against the start's, with `--align 1` and `--align auto`;
* tested-NAME: the test images, looked at once, at the end.

All choices are made on the images that validate. A stage that has run is not run again, and trainings go on after the
last epoch; without names, all run, in order, but for those that need --other where it is not given. DIR holds the
models and a JSON for each stage, --json gets all of them (default for a run that is no toy:
tools/experiments/cifar10.json).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
import torch
from _cifar import Recipe, Tuning, accuracy, first_training, tuned
from _classified import Classified
from _loop import Loop
from _mobilenet import MODULES, MobileNetV2, Shape, exported, small
from _rivals import by_torch_pruning, simplified
from _stages import Facts, Work, arguments, raced

from onnx_condense import Options
from onnx_condense.errors import VerificationError
from onnx_condense.finetune import Settings, State
from onnx_condense.finetune import run as reduce
from onnx_condense.operators.queries import count_parameters
from onnx_condense.torch import load_state_dict, shrink

MIXED = 10
"""The first epoch from scratch whose products are of bfloat16, which saves nearly half of its time."""


@dataclass(frozen=True)
class Plan:
    """How large everything is.

    Attributes:
        shape: of the network.
        recipe: of the start.
        tuning: of every training after.
        gentle: its learning rate where the network to be trained still classifies.
        seed: of the weights, and of which images calibrate.
        images: that calibrate.
        shares: reached without training.
        others: shares of the other start.
        tuned: of `shares`, those that are trained after.
        until: the share at which the automatic reductions end.
        rounds: at most, of them.
        limits: steps after a layer (half as many more after each failure, as in the paper), after the last of a round,
            and before a round.
        batches: in a step of theirs.
        between: steps between two tests before a round.
        steps: after which a reduction ends at the next layer that meets its criterion.
    """

    shape: Shape = field(default_factory=Shape)
    recipe: Recipe = field(default_factory=Recipe)
    tuning: Tuning = field(default_factory=Tuning)
    gentle: float = 0.002
    seed: int = 0
    images: tuple[int, ...] = (0, 64, 256, 1024)
    shares: tuple[float, ...] = (0.7, 0.5, 0.407, 0.3, 0.2, 0.115, 0.05, 0.02, 0.01)
    others: tuple[float, ...] = (0.3, 0.2, 0.12, 0.063, 0.032)
    tuned: tuple[float, ...] = (0.115, 0.05)
    until: float = 0.115
    rounds: int = 6
    limits: tuple[int, int, int] = (4, 40, 40)
    batches: int = 25
    between: int = 2
    steps: int = 80

    def toy(self) -> Plan:
        """The same, to be done in seconds."""
        return replace(
            self,
            shape=Shape(8, 24, ((1, 8, 1, 1), (2, 12, 2, 2))),
            recipe=Recipe(1, 1, 2, (1,), batch=16, crop=6, held=16),
            tuning=Tuning(2, batch=16),
            images=(0, 16),
            shares=(0.6,),
            others=(),
            tuned=(0.6,),
            until=0.9,
            rounds=1,
            limits=(1, 1, 1),
            batches=1,
        )


class SpentError(Exception):
    """A reduction has had its steps."""


class Experiment(Classified):
    """The stages of one run."""

    def __init__(self, plan: Plan, work: Work, given: argparse.Namespace) -> None:
        super().__init__(work, given.data, given.seconds, plan.recipe.held, plan.seed)
        self.plan, self.other = plan, given.other

    @property
    def side(self) -> int:
        return int(self.data.images.shape[-1])

    # ------------------------------------------------------------------------------------------------ networks

    def _fresh(self) -> MobileNetV2:
        torch.manual_seed(self.plan.seed)
        return MobileNetV2(self.plan.shape)

    def start(self) -> Facts:
        network = small(self._fresh())
        log = first_training(network, self.data, self.plan.recipe, self.work.path("start.pt"))
        exported(network, self.work.model("start"), self.side)
        return self.described("start") | {"log": log}

    def merged(self, images: int, share: float) -> Facts:
        """Merging to a share, with so many images or none."""
        self.condense(self.work.model("start"), f"merged-{images}-{share}", images, share)
        return self.described(f"merged-{images}-{share}")

    def aligned(self, share: float) -> Facts:
        """Merging with the most images to widths that run fast here."""
        name = f"aligned-{share}"
        try:
            self.condense(self.work.model("start"), name, self.plan.images[-1], share, "auto")
        except VerificationError as error:  # so small a share cannot be met at the host's multiples
            return {"refused": str(error)}
        return self.described(name)

    def from_other(self, share: float) -> Facts:
        """The other start; its size is relative to itself."""
        assert self.other is not None
        self.condense(self.other, f"other-{share}", 256, share)
        before, after = onnx.load(self.other), onnx.load(self.work.model(f"other-{share}"))
        whole, parameters = (count_parameters(model.graph)[0] for model in (before, after))
        facts = {"parameters": parameters, "share": parameters / whole}
        scores = {"held": accuracy(after, self.data.chosen), "start": accuracy(before, self.data.chosen)}
        return facts | scores

    def _trained_on(self, source: str, target: str, gentle: bool = False, teacher: str | None = None) -> Facts:
        taught_by = None if teacher is None else self.work.model(teacher)
        tuning = replace(self.plan.tuning, rate=self.plan.gentle) if gentle else self.plan.tuning
        log = tuned(self.work.model(source), self.work.model(target), self.data, tuning, taught_by)
        return self.described(target) | {"log": log}

    def ours(self, share: float) -> str:
        """What is trained on: merged with the most images."""
        return f"merged-{self.plan.images[-1]}-{share}"

    def scratch(self, share: float) -> Facts:
        """Widths of as many parameters, from small weights."""
        torch.manual_seed(self.plan.seed)
        widths = f"widths-{share}"
        if not self.work.model(widths).exists():  # else a training goes on
            self.condense(self.work.model("start"), widths, self.plan.images[-1], share, widths_only=True)
        network = small(shrink(MobileNetV2(self.plan.shape), self.work.model(widths)))
        again = (*self.plan.recipe.again, self.plan.tuning.epochs)
        recipe = replace(self.plan.recipe, again=again, mixed=MIXED)
        name = f"scratch-{share}"
        log = first_training(network, self.data, recipe, self.work.path(f"{name}.pt"))
        exported(network, self.work.model(name), self.side)
        return self.described(name) | {"log": log}

    def torch_pruning(self, share: float) -> Facts:
        network = load_state_dict(self._fresh(), torch.load(self.work.path("start.pt"), weights_only=False)["net"])
        name = f"torch-pruning-{share}"
        size = share * self.whole
        return self.best_of(by_torch_pruning(network, self.work.model(name), size, self.side), name)

    def onnxsim(self, share: float) -> Facts:
        name = f"onnxsim-{share}"
        size = share * self.whole
        return self.best_of(simplified(self.work.model("start"), self.work.model(name), size), name)

    # ------------------------------------------------------------------------------------------------ auto

    def _reduced(self, name: str, options: Options) -> Facts:
        """The automatic reduction: a step is `batches` batches of the training images."""
        layer, last, main = self.plan.limits
        settings = Settings(
            rounds=self.plan.rounds,
            until=self.plan.until,
            step_limit=layer,
            step_limit_growth=layer // 2,
            last_step_limit=last,
            main_step_limit=main,
            main_test_every=self.plan.between,
        )
        trainer = Loop(self.data, self.plan.batches, self.plan.tuning.batch)
        folder = self.work.path(name)
        states: list[State] = []

        def watch(state: State, event: Mapping[str, Any]) -> None:
            states.append(state)
            if event["event"] == "accepted" and state.total_steps >= self.plan.steps:
                raise SpentError

        try:
            reduce(self.work.model("start"), trainer, folder, settings, options, watch=watch)
            kept = folder / "result.onnx"
        except SpentError:
            kept = folder / "models" / f"{states[-1].now.model}.onnx"
        onnx.save(onnx.load(kept if kept.exists() else self.work.model("start")), self.work.model(name))
        end = states[-1]
        rounds = [
            {key: value for key, value in asdict(row).items() if key in ("parameters", "score", "steps")}
            for row in end.rows
        ]
        done = {"steps": end.total_steps, "batches": self.plan.batches, "rounds": rounds, "end": str(end.phase)}
        return self.described(name) | done

    def paper(self) -> Facts:
        return self._reduced("paper", Options(depthwise="kernel", merge="ratio", include=MODULES, align=1))

    def auto(self) -> Facts:
        seen = {"image": self.data.unlabelled(min(256, self.plan.images[-1]), self.plan.seed)}
        return self._reduced("auto", Options(merge="calibrated", calibration=seen, align=1))

    def raced(self, share: float) -> Facts:
        """Latencies against the start's, of the smallest widths and of those that run fast here."""
        smaller = {"--align 1": self.ours(share), "--align auto": f"aligned-{share}"}
        made = {name: self.work.model(model) for name, model in smaller.items() if self.work.model(model).exists()}
        return {"rows": raced(self.work.model("start"), made, self.seconds)}

    # ------------------------------------------------------------------------------------------------ order

    def stages(self) -> dict[str, Callable[[], Facts]]:
        """Every stage, in order."""
        plan = self.plan
        made: dict[str, Callable[[], Facts]] = {"start": self.start}
        made |= {f"merged-{n}-{share}": partial(self.merged, n, share) for n in plan.images for share in plan.shares}
        for share in plan.tuned:
            source = self.ours(share)
            made[f"tuned-{share}"] = partial(self._trained_on, source, f"tuned-{share}", True)
            made[f"taught-{share}"] = partial(self._trained_on, source, f"taught-{share}", True, "start")
            for name, peer in (("torch-pruning", self.torch_pruning), ("onnxsim", self.onnxsim)):
                made[f"{name}-{share}"] = partial(peer, share)
                for rate, is_gentle in (("tuned", False), ("gentle", True)):
                    pruned, target = f"{name}-{share}", f"{name}-{share}-{rate}"
                    made[target] = partial(self._trained_on, pruned, target, is_gentle)
            made[f"scratch-{share}"] = partial(self.scratch, share)
            made[f"aligned-{share}"] = partial(self.aligned, share)
        made |= {"paper": self.paper, "auto": self.auto}
        seen = {f"raced-{share}": partial(self.raced, share) for share in plan.tuned}
        if self.other is not None:
            made |= {f"other-{share}": partial(self.from_other, share) for share in plan.others}
        return made | seen | {f"tested-{name}": partial(self.tested, name) for name in made}


def main() -> None:
    """Runs the stages that are asked for."""
    parser = arguments(__doc__, threads=2, seconds=10.0)
    add: Any = parser.add_argument
    add("--data", type=Path, required=True, metavar="DATA")
    add("--other", type=Path, metavar="MODEL.onnx")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan().toy() if given.toy else Plan()
    work = Work(given.work, asdict(plan))
    work.asked(parser, Experiment(plan, work, given).stages(), "cifar10")


if __name__ == "__main__":
    main()
