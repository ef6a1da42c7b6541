"""What the experiments on labelled images share: images, merging to a share, the best that peers offer, the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import onnx
from _cifar import Data, accuracy
from _rivals import best
from _stages import Facts, Work

from onnx_condense import Options, condense
from onnx_condense.operators.queries import count_parameters

REFUSED = "nothing so small can be made"


class Classified:
    """Stages of one run, whose network is `start`; `held` images validate, `seconds` is what a race lasts at most."""

    def __init__(self, work: Work, place: Path, seconds: float, held: int, seed: int) -> None:
        self.work, self.seconds = work, seconds
        self._place, self._held, self._seed = place, held, seed

    @cached_property
    def data(self) -> Data:
        """The images."""
        return Data(self._place, self._held)

    @cached_property
    def whole(self) -> int:
        """Parameters of the start."""
        return count_parameters(onnx.load(self.work.model("start")).graph)[0]

    def described(self, name: str) -> Facts:
        """Size, and the accuracy on the images that validate."""
        model = onnx.load(self.work.model(name))
        parameters = count_parameters(model.graph)[0]
        return {"parameters": parameters, "share": parameters / self.whole, "held": accuracy(model, self.data.chosen)}

    def condense(
        self,
        source: Path,
        name: str,
        images: int,
        share: float,
        align: Literal["auto", 1] = 1,
        widths_only: bool = False,
    ) -> None:
        """Merges a model to a share with so many images, or none."""
        options = Options(budget=("params", share), align=align, widths_only=widths_only)
        if images:
            model = onnx.load(source, load_external_data=False)
            seen = {model.graph.input[0].name: self.data.unlabelled(images, self._seed)}
            options = replace(options, merge="calibrated", calibration=seen)
        onnx.save(condense(source, options).model, self.work.model(name))

    def best_of(self, offers: Iterator[tuple[str, Path]], name: str) -> Facts:
        """The offer (setting, file) that is best on the images that validate."""
        setting = best(offers, self.work.model(name), lambda model: accuracy(model, self.data.chosen))
        return {"refused": REFUSED} if setting is None else self.described(name) | {"setting": setting}

    def tested(self, name: str) -> Facts:
        """The test images; nothing of a network that could not be made."""
        if not self.work.model(name).exists():
            return {}
        return {"test": accuracy(onnx.load(self.work.model(name)), self.data.test), "images": len(self.data.test.y)}
