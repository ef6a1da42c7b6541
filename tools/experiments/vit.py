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
from functools import cached_property, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import torch
from _cifar import Data, accuracy, continued
from _peers import tightest
from _rivals import best, simplified
from _stages import HERE, Facts, Work, raced
from _svd import truncated
from _vit import Attention, Shape, VisionTransformer, exported
from torch import nn

from onnx_condense import Options, condense
from onnx_condense.errors import UsageError
from onnx_condense.operators.queries import count_parameters

REFUSED = "nothing so small can be made"


@dataclass(frozen=True)
class Recipe:
    """How it is trained: one cosine after a linear start, products of bfloat16, weights and their steps of float32."""

    epochs: int = 14
    batch: int = 128
    rate: float = 1e-3
    decay: float = 0.05
    start: float = 1.0
    held: int = 2000

    def learning_rate(self, at: float) -> float:
        """After so many epochs."""
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


class Experiment:
    """The stages of one run; `seconds` is what a race lasts at most."""

    def __init__(self, plan: Plan, work: Work, given: argparse.Namespace) -> None:
        self.plan, self.work = plan, work
        self.place, self.seconds = given.data, given.seconds

    @cached_property
    def data(self) -> Data:
        return Data(self.place, self.plan.recipe.held)

    def _described(self, name: str) -> Facts:
        """Size, and the accuracy on the images that validate."""
        model = onnx.load(self.work.model(name))
        parameters = count_parameters(model.graph)[0]
        return {"parameters": parameters, "share": parameters / self._whole, "held": accuracy(model, self.data.chosen)}

    @cached_property
    def _whole(self) -> int:
        return count_parameters(onnx.load(self.work.model("start")).graph)[0]

    def _network(self) -> VisionTransformer:
        torch.manual_seed(self.plan.seed)
        return VisionTransformer(self.plan.shape)

    def start(self) -> Facts:
        network, recipe = self._network(), self.plan.recipe
        adam = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.decay)
        run = partial(_epoch, network, self.data, recipe, adam)
        log = continued({"net": network, "adam": adam}, self.work.path("start.pt"), self.data, recipe.epochs, run)
        exported(network, self.work.model("start"), self.plan.shape.side)
        return self._described("start") | {"log": log}

    def merged(self, name: str, images: int, share: float, widths_only: bool) -> Facts:
        """Merging to a share, with so many images or none."""
        options = Options(budget=("params", share), align=1, widths_only=widths_only)
        if images:
            seen = {"image": self.data.unlabelled(images, self.plan.seed)}
            options = replace(options, merge="calibrated", calibration=seen)
        onnx.save(condense(self.work.model("start"), options).model, self.work.model(name))
        return self._described(name)

    def torch_pruning(self, share: float) -> Facts:
        network = self._network()
        network.load_state_dict(torch.load(self.work.path("start.pt"), weights_only=False)["net"])
        target = self.work.model(f"torch-pruning-{share}")
        return self._best(pruned(network, target, share, self.plan.shape.side), target)

    def onnxsim(self, share: float) -> Facts:
        target = self.work.model(f"onnxsim-{share}")
        return self._best(simplified(self.work.model("start"), target, share * self._whole), target)

    def _best(self, offers: Iterator[tuple[str, Path]], target: Path) -> Facts:
        made = list(offers)
        if not made:
            return {"refused": REFUSED}
        setting = best(iter(made), target, lambda model: accuracy(model, self.data.chosen))
        return self._described(target.stem) | {"setting": setting}

    def svd(self, share: float) -> Facts:
        model = onnx.load(self.work.model("start"))
        found = tightest(
            lambda gone: truncated(model, 1 - gone), lambda one: count_parameters(one.graph)[0], share * self._whole
        )
        if found is None:
            return {"refused": REFUSED}
        onnx.save(found, self.work.model(f"svd-{share}"))
        return self._described(f"svd-{share}")

    def raced(self, share: float) -> Facts:
        """Latencies against the start's, of what was merged with the most images."""
        name = f"merged-{self.plan.images[-1]}-{share}"
        return {"rows": raced(self.work.model("start"), {name: self.work.model(name)}, self.seconds)}

    def tested(self, name: str) -> Facts:
        """The test images; nothing of a network that could not be made."""
        if not self.work.model(name).exists():
            return {}
        return {"test": accuracy(onnx.load(self.work.model(name)), self.data.test), "images": len(self.data.test.y)}

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
    generator = np.random.default_rng(1000 + epoch)
    order = generator.permutation(data.rows)
    steps, total = len(order) // recipe.batch, 0.0
    network.train()
    for step in range(steps):
        rows = order[step * recipe.batch : (step + 1) * recipe.batch]
        x = data.crops(rows, generator, data.images.shape[-1]).bfloat16()
        for group in adam.param_groups:
            group["lr"] = recipe.learning_rate(epoch + step / steps)
        rounded = {name: value.bfloat16() for name, value in network.named_parameters()}
        loss = nn.functional.cross_entropy(torch.func.functional_call(network, rounded, x).float(), data.labels[rows])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        total += loss.item()
    return total / steps


def pruned(network: nn.Module, target: Path, share: float, size: int) -> Iterator[tuple[str, Path]]:
    """(setting, file) of Torch-Pruning's magnitude pruner (L2), which is told where heads are.

    One share for all layers, or one ranking over all; whole heads too, or channels of heads alone.
    """
    import torch_pruning

    example = torch.zeros(1, 3, size, size)
    parameters = share * sum(p.numel() for p in network.parameters())

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

    for everywhere in (False, True):
        for heads in (False, True):
            setting = f"{'one ranking' if everywhere else 'one share'}, {'heads' if heads else 'channels of heads'}"
            found = tightest(
                lambda gone, e=everywhere, h=heads: made(gone, e, h),  # type: ignore[misc]
                lambda smaller: sum(p.numel() for p in smaller.parameters()),
                parameters,
            )
            if found is not None:
                path = target.with_suffix(f".{int(everywhere)}{int(heads)}.onnx")
                exported(found, path, size)
                yield setting, path


def main() -> None:
    """Runs the stages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--work", type=Path, required=True, metavar="DIR")
    add("--data", type=Path, required=True, metavar="DATA")
    add("--threads", type=int, default=2)
    add("--seconds", type=float, default=10.0, help="that a race lasts at most")
    add("--toy", action="store_true", help="in seconds, to see that it works")
    add("--json", type=Path, metavar="OUT.json")
    add("stages", nargs="*", metavar="STAGE")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan().toy() if given.toy else Plan()
    work = Work(given.work, asdict(plan))
    stages = Experiment(plan, work, given).stages()
    target = given.json or (None if given.toy else HERE / "vit.json")
    try:
        work.run(stages, given.stages, target)
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
