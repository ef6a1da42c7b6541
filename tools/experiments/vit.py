"""A vision transformer trained here on CIFAR-10, and what is left of it at smaller sizes, without training.

    pip install '.[torch]' --group peers && python tools/experiments/vit.py --work DIR --data DATA
        [--threads N] [--seconds S] [--toy] [--json OUT.json] [STAGE ...]

DATA is an .npz with train_x, train_y, test_x, test_y, or a folder with a load.py whose load() returns them. The stages:

* start: 2,693,194 parameters in six blocks of 192 channels and six heads; AdamW along one cosine, random crops and
  mirror images, products of bfloat16. 2,000 training images validate;
* merged-IMAGES-SHARE: calibrated merging to a share with so many unlabelled images (0: without data);
* channels-IMAGES-SHARE: the same where channels and heads go, and nothing is turned or factored (`--widths-only`);
* torch-pruning-SHARE: its magnitude pruner with the heads named to it, the best of four settings on the images that
  validate; onnxsim-SHARE; svd-SHARE: two factors for every matrix, one share of each;
* raced-SHARE: latencies of `merged` against the start's;
* tested-NAME: the test images, looked at once, at the end.

A stage that has run is not run again, and the training goes on after its last epoch; without names all run, in order.
DIR holds the models and a JSON for each stage, --json gets all of them (default for a run that is no toy:
tools/experiments/vit.json).
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
import torch
from _cifar import Data, continued, one_epoch
from _classified import REFUSED, Classified
from _peers import tightest
from _rivals import offered, simplified
from _stages import Facts, Work, arguments, raced
from _svd import truncated
from _vit import Attention, Shape, VisionTransformer, exported
from torch import nn

from onnx_condense.operators.queries import count_parameters


@dataclass(frozen=True)
class Recipe:
    """How it is trained: one cosine after a linear start, products of bfloat16, weights and their steps of float32."""

    epochs: int = 14
    batch: int = 128
    rate: float = 1e-3
    decay: float = 0.05
    start: float = 1.0
    held: int = 2000

    def learning_rate(self, epoch: int, part: float) -> float:
        """At so much of an epoch."""
        at = epoch + part
        return self.rate * min(1.0, at / self.start) * 0.5 * (1 + math.cos(math.pi * at / self.epochs))


@dataclass(frozen=True)
class Plan:
    """How large everything is. images: that calibrate; channels: of them, for `--widths-only`."""

    shape: Shape = field(default_factory=Shape)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    images: tuple[int, ...] = (0, 64, 256)
    channels: tuple[int, ...] = (0, 256)
    shares: tuple[float, ...] = (0.9, 0.7, 0.5)

    def toy(self) -> Plan:
        """The same, to be done in seconds."""
        recipe = Recipe(2, batch=16, held=16)
        return replace(self, shape=Shape(8, 4, 16, 2, 1), recipe=recipe, images=(0, 32), channels=(32,), shares=(0.7,))


class Experiment(Classified):
    """The stages of one run."""

    def __init__(self, plan: Plan, work: Work, given: argparse.Namespace) -> None:
        super().__init__(work, given.data, given.seconds, plan.recipe.held, plan.seed)
        self.plan = plan

    def _network(self) -> VisionTransformer:
        torch.manual_seed(self.plan.seed)
        return VisionTransformer(self.plan.shape)

    def start(self) -> Facts:
        network, recipe = self._network(), self.plan.recipe
        adam = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.decay)
        run = partial(_epoch, network, self.data, recipe, adam)
        log = continued({"net": network, "adam": adam}, self.work.path("start.pt"), self.data, recipe.epochs, run)
        exported(network, self.work.model("start"), self.plan.shape.side)
        return self.described("start") | {"log": log}

    def merged(self, name: str, images: int, share: float, widths_only: bool) -> Facts:
        """Merging to a share, with so many images or none."""
        self.condense(self.work.model("start"), name, images, share, widths_only=widths_only)
        return self.described(name)

    def torch_pruning(self, share: float) -> Facts:
        network, name = self._network(), f"torch-pruning-{share}"
        network.load_state_dict(torch.load(self.work.path("start.pt"), weights_only=False)["net"])
        return self.best_of(pruned(network, self.work.model(name), share * self.whole, self.plan.shape.side), name)

    def onnxsim(self, share: float) -> Facts:
        name = f"onnxsim-{share}"
        return self.best_of(simplified(self.work.model("start"), self.work.model(name), share * self.whole), name)

    def svd(self, share: float) -> Facts:
        name, model = f"svd-{share}", onnx.load(self.work.model("start"))
        found = tightest(
            lambda gone: truncated(model, 1 - gone), lambda one: count_parameters(one.graph)[0], share * self.whole
        )
        if found is None:
            return {"refused": REFUSED}
        onnx.save(found, self.work.model(name))
        return self.described(name)

    def raced(self, share: float) -> Facts:
        """Latencies against the start's, of what was merged with the most images."""
        name = f"merged-{self.plan.images[-1]}-{share}"
        return {"rows": raced(self.work.model("start"), {name: self.work.model(name)}, self.seconds)}

    def stages(self) -> dict[str, Callable[[], Facts]]:
        """Every stage, in order."""
        plan = self.plan
        made: dict[str, Callable[[], Facts]] = {"start": self.start}
        for kind, counts in (("merged", plan.images), ("channels", plan.channels)):
            for name, images, share in ((f"{kind}-{n}-{share}", n, share) for n in counts for share in plan.shares):
                made[name] = partial(self.merged, name, images, share, kind == "channels")
        for share in plan.shares:
            made[f"torch-pruning-{share}"] = partial(self.torch_pruning, share)
            made[f"onnxsim-{share}"] = partial(self.onnxsim, share)
            made[f"svd-{share}"] = partial(self.svd, share)
        seen = {f"raced-{share}": partial(self.raced, share) for share in plan.shares}
        return made | seen | {f"tested-{name}": partial(self.tested, name) for name in made}


def _epoch(network: nn.Module, data: Data, recipe: Recipe, adam: torch.optim.Optimizer, epoch: int) -> float:
    """The mean loss."""
    side = data.images.shape[-1]

    def logits(x: torch.Tensor) -> torch.Tensor:
        rounded = {name: value.bfloat16() for name, value in network.named_parameters()}
        made: torch.Tensor = torch.func.functional_call(network, rounded, x.bfloat16())
        return made

    network.train()
    return one_epoch(logits, data, recipe, side, adam, epoch)


def pruned(network: nn.Module, target: Path, parameters: float, size: int) -> Iterator[tuple[str, Path]]:
    """(setting, file) of Torch-Pruning's magnitude pruner (L2), which is told where heads are.

    One share for all layers, or one ranking over all; whole heads too, or channels of heads alone.
    """
    import torch_pruning

    example = torch.zeros(1, 3, size, size)

    def made(gone: float, everywhere: bool, heads: bool) -> nn.Module:
        smaller = copy.deepcopy(network).eval()
        attentions = [m for m in smaller.modules() if isinstance(m, Attention)]
        pruner = torch_pruning.pruner.MagnitudePruner(
            smaller,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=gone,
            ignored_layers=[smaller.head],
            global_pruning=everywhere,
            num_heads={attention.qkv: attention.heads for attention in attentions},
            prune_num_heads=heads,
            prune_head_dims=not heads,
            head_pruning_ratio=gone if heads else 0.0,
        )
        pruner.step()
        for attention in attentions:
            attention.heads = pruner.num_heads[attention.qkv]
        return smaller

    settings = {
        f"{ranking}, {taken}": partial(made, everywhere=everywhere, heads=heads)
        for ranking, everywhere in (("one share", False), ("one ranking", True))
        for taken, heads in (("channels of heads", False), ("heads", True))
    }
    return offered(settings, parameters, target, partial(exported, size=size))


def main() -> None:
    """Runs the stages that are asked for."""
    parser = arguments(__doc__, threads=2, seconds=10.0)
    parser.add_argument("--data", type=Path, required=True, metavar="DATA")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan().toy() if given.toy else Plan()
    work = Work(given.work, asdict(plan))
    work.asked(parser, Experiment(plan, work, given).stages(), "vit")


if __name__ == "__main__":
    main()
