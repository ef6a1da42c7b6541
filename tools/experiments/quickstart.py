"""The quick start of docs/pytorch.md, from a network trained here to the tuned file: its transcript.

    pip install '.[torch]' && python tools/experiments/quickstart.py --data DATA [--steps 300] [--tuning 400]
        [--held 2000] [--fill]

DATA is an .npz with train_x, train_y, test_x, test_y, or a folder with a load.py whose load() returns them. A network
of seven layers is trained on it for so many steps; then the blocks of the page run as they stand, with 256 unlabelled
images, and the last training takes so many steps. Accuracies are on 2,000 training images that nothing is trained on.
--fill puts what is printed into the page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import torch
from _cifar import Data, accuracy
from _marks import ROOT, fill
from torch import nn

from onnx_condense.operators.queries import count_parameters
from onnx_condense.torch import Samples, cross_entropy, fit

PAGE = ROOT / "docs" / "pytorch.md"
IMAGES, SEED = 256, 0


def network(classes: int) -> nn.Module:
    """What a user may have: convolutions with normalization, and a classifier."""
    widths, layers = (3, 48, 96, 192), list[nn.Module]()
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def transcript(data: Data, steps: int, tuning: int) -> Iterator[str]:
    """The lines that a user would see in a folder of their own."""
    images, labels = data.images.numpy()[data.rows], data.labels.numpy()[data.rows]
    torch.manual_seed(SEED)
    names: dict[str, Any] = {"network": network(int(labels.max()) + 1), "images": images, "labels": labels}
    fit(names["network"], Samples(images, labels), cross_entropy, steps)
    np.savez("images.npz", image=data.unlabelled(min(IMAGES, len(data.rows)), SEED))
    for kind, block in re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(), re.S)[:5]:
        if kind == "sh":
            yield f"$ {block.strip()}"
            command = [sys.executable, "-m", "onnx_condense", *block.split()[1:]]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"}
            )
            yield from done.stdout.rstrip().splitlines()
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(block.replace("steps=2000", f"steps={tuning}"), names)
    yield ""
    for name in ("network", "small", "tuned"):
        model = onnx.load(f"{name}.onnx")
        size, right = count_parameters(model.graph)[0], accuracy(model, data.chosen)
        yield f"{name}.onnx: {size:,} parameters, {right:.1%} of {len(data.held):,} other images"


def main() -> None:
    """Prints the lines, and puts them into the page where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--data", type=Path, required=True, metavar="DATA")
    add("--steps", type=int, default=300)
    add("--tuning", type=int, default=400)
    add("--held", type=int, default=2000, help="training images that judge")
    add("--fill", action="store_true")
    given = parser.parse_args()
    data = Data(given.data.resolve(), given.held)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        lines = list(transcript(data, given.steps, given.tuning))
    print("\n".join(lines))
    if given.fill:
        fill("transcript", ["```text", *lines, "```"])


if __name__ == "__main__":
    main()
