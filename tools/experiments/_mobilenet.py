"""MobileNetV2 for images of 32 x 32, with torchvision's parameter names (Sandler et al. 2018, Table 2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

Block = tuple[int, int, int, int]
"""(expansion, channels, how many, stride of the first)."""

BLOCKS: tuple[Block, ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
CLASSES = 10
MODULES = ("*/conv.1/conv.1.0/*",)
"""The paper's 16 modules, by their depthwise layers."""


@dataclass(frozen=True)
class Shape:
    """Which network: channels of the stem and the head, and the blocks between."""

    stem: int = 32
    head: int = 1280
    blocks: tuple[Block, ...] = BLOCKS


class Depthwise(nn.Conv2d):
    """In float32 under autocast: with a stride, and on the smallest maps, its backward pass is slow in bfloat16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def _step(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    slow = groups > 1 and (stride > 1 or inputs >= 960)
    kind = Depthwise if slow else nn.Conv2d
    convolution = kind(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class Module(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden, self.skip = inputs * expansion, stride == 1 and inputs == outputs
        wide = [_step(inputs, hidden)] if expansion > 1 else []
        deep = _step(hidden, hidden, 3, stride, hidden)
        self.conv = nn.Sequential(*wide, deep, nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.conv(x)
        return x + made if self.skip else made


class MobileNetV2(nn.Module):
    """The network; its stem keeps the size of the images."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        layers: list[nn.Module] = [_step(3, shape.stem, 3)]
        inputs = shape.stem
        for expansion, outputs, count, stride in shape.blocks:
            for number in range(count):
                layers.append(Module(inputs, outputs, expansion, stride if number == 0 else 1))
                inputs = outputs
        layers.append(_step(inputs, shape.head))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(shape.head, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return made


def small(network: nn.Module, exponent: float = 0.75) -> nn.Module:
    """Draws the weights anew, in place, from N(0, ((inputs + outputs) / 2)^-2·exponent); normalization as it begins."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight
            fan = (weight[0].numel() + weight.shape[0] * weight[0][0].numel()) / 2
            nn.init.normal_(weight, 0, fan**-exponent if fan > 1 else 1)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return network


def exported(network: nn.Module, path: Path, size: int = 32) -> None:
    """Writes the file, BatchNormalization kept."""
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, size, size),),
        str(path),
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
