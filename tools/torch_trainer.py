"""A PyTorch trainer for `onnx-condense auto`, and for one model at a time.

    onnx-condense auto MODEL --work run --trainer "python tools/torch_trainer.py --data images.npz"
    python tools/torch_trainer.py --data images.npz --model condensed.onnx --output tuned.onnx --steps 2000

DATA is an .npz with arrays x [n, ...] and y (labels [n], or targets [n, ...]), or FILE.py:function, which returns such
a dictionary. Every eighth sample is held back for the score: the accuracy, or minus the mean squared error. With
--teacher ORIGINAL.onnx no y is needed: the network learns what the original answers. --module FILE.py:function trains
your own torch module, shrunk to the model; without it the graph itself is read as a module. A step is a batch
(--batches makes it several). With `torchrun --nproc-per-node 2 tools/torch_trainer.py` as the command, processes share
the batches.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from onnx_condense.errors import UsageError
from onnx_condense.model.runtime import run, session
from onnx_condense.pytorch.fitting import Loss, Samples, cross_entropy, distillation, fit, predictions, squared
from onnx_condense.torch import Strategy, shrink, to_module, written_back

HELD = 8
STEPS_DONE = "ONNX_CONDENSE_STEPS_DONE"


def function_at(place: str) -> Callable[..., Any]:
    """The function that FILE.py:NAME names."""
    path, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{place} is not FILE.py:function")
    room = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(room)
    found: Callable[..., Any] = getattr(room, name)
    return found


def read_data(place: str) -> dict[str, Any]:
    """Arrays x and, where there are any, y; a function of a file may add `augment`."""
    if ".py:" in place:
        return dict(function_at(place)())
    with np.load(place) as file:
        arrays = {name: file[name] for name in file.files}
    if "x" not in arrays:
        raise UsageError(f"{place} holds {', '.join(arrays)}: it needs x (inputs) and y (labels or targets)")
    return arrays


def answers(model: Path, inputs: Any, batch: int = 256) -> Any:
    """What a model gives for inputs [n, ...]."""
    active = session(model)
    name = active.get_inputs()[0].name
    found = [run(active, None, {name: inputs[i : i + batch]})[0] for i in range(0, len(inputs), batch)]
    return np.concatenate(found)


class Trainer:
    """Data, loss and module of the calls of one run."""

    def __init__(self, given: argparse.Namespace) -> None:
        data = read_data(given.data)
        self.given, self.augment = given, data.get("augment")
        self.inputs = data["x"]
        taught = given.teacher is not None
        self.truth = data.get("y")
        if not taught and self.truth is None:
            raise UsageError(f"{given.data} has no y: pass labels or targets, or --teacher ORIGINAL.onnx")
        self.targets = answers(given.teacher, self.inputs) if taught else self.truth
        labels = self.truth is not None and np.issubdtype(self.truth.dtype, np.integer)
        self.classes = labels or given.loss in ("cross-entropy", "distillation")
        self.loss = self.chosen_loss(taught)
        self.held = np.arange(len(self.inputs)) % HELD == 0

    def chosen_loss(self, taught: bool) -> Loss:
        """The loss that was asked for, or the one that suits the targets."""
        losses: dict[str, Loss] = {
            "cross-entropy": cross_entropy,
            "squared": squared,
            "distillation": distillation(self.given.temperature),
        }
        suited = "squared" if not self.classes else "distillation" if taught else "cross-entropy"
        return losses[suited if self.given.loss == "auto" else self.given.loss]

    def module(self, model: Path) -> torch.nn.Module:
        """The user's module, shrunk to the model, or the model's graph."""
        return shrink(function_at(self.given.module)(), model) if self.given.module else to_module(model)

    def score(self, module: torch.nn.Module) -> dict[str, float]:
        """Accuracy on the held samples, or minus the mean squared error; without truth, against the teacher."""
        found = predictions(module, self.inputs[self.held])
        truth = (self.targets if self.truth is None else self.truth)[self.held]
        if self.classes:
            labels = truth.argmax(-1) if truth.ndim > 1 else truth
            return {"score": float((found.argmax(-1) == labels).mean())}
        return {"score": -float(np.mean((found - truth.reshape(found.shape)) ** 2))}

    def train(self, module: torch.nn.Module, steps: int, rate: float, done: int) -> None:
        """`steps` times --batches batches."""
        free, count = ~self.held, self.given.batches
        samples = Samples(self.inputs[free], self.targets[free], self.augment)
        if self.given.fit:
            function_at(self.given.fit)(module, samples, self.loss, steps * count, rate, done * count)
            return
        strategy = replace(Strategy(), learning_rate=rate, batch=self.given.batch)
        fit(module, samples, self.loss, steps * count, strategy, done * count)


def arguments() -> argparse.Namespace:
    """What `onnx-condense auto` passes, and this trainer's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--data", required=True, metavar="DATA")
    add("--module", metavar="FILE.py:function", help="that makes your own module")
    add("--teacher", type=Path, metavar="ORIGINAL.onnx")
    add("--loss", choices=["auto", "cross-entropy", "squared", "distillation"], default="auto")
    add("--temperature", type=float, default=4.0, help="of distillation")
    add("--fit", metavar="FILE.py:function", help="trains instead: (module, samples, loss, batches, rate, done)")
    add("--batch", type=int, default=128)
    add("--batches", type=int, default=1, help="in a step")
    add("--threads", type=int, default=0, help="of torch; 0 leaves it to torch")
    add("--model", type=Path, required=True)
    add("--output", type=Path)
    add("--steps", type=int, default=0)
    add("--learning-rate", type=float, default=0.01)
    add("--metrics", type=Path)
    add("--evaluate-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    """One call."""
    given = arguments()
    shared = "WORLD_SIZE" in os.environ
    if shared:
        torch.distributed.init_process_group("gloo")
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.use_deterministic_algorithms(True)
    trainer = Trainer(given)
    module = trainer.module(given.model)
    if not given.evaluate_only:
        torch.manual_seed(0)
        trainer.train(module, given.steps, given.learning_rate, int(os.environ.get(STEPS_DONE, "0")))
    metrics = trainer.score(module)
    if not shared or torch.distributed.get_rank() == 0:
        if not given.evaluate_only and given.output:
            onnx.save(written_back(module, given.model), given.output)
        if given.metrics:
            given.metrics.write_text(json.dumps(metrics))
        else:
            print(f"score {metrics['score']:.4f}")
    if shared:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
