"""A vision transformer that normalizes before each branch (Dosovitskiy et al. 2021), for small images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

CLASSES = 10


@dataclass(frozen=True)
class Shape:
    """Which network: pixels of a side of an image and of a patch, channels of the stream, heads, blocks."""

    side: int = 32
    patch: int = 4
    channels: int = 192
    heads: int = 6
    blocks: int = 6


class Attention(nn.Module):
    """One layer makes queries, keys and values, counted where they are used: a pruner may take some."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images, tokens, _ = x.shape
        size = self.qkv.out_features // (3 * self.heads)
        q, k, v = self.qkv(x).reshape(images, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.softmax(q @ k.transpose(-2, -1) * size**-0.5, -1) @ v
        made: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(images, tokens, self.heads * size))
        return made


class Block(nn.Module):
    """Attention, then two layers with four times the channels between them."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        made: torch.Tensor = x + self.mlp(self.norm2(x))
        return made


class VisionTransformer(nn.Module):
    """The network; the mean of its tokens is classified."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, shape.channels, shape.patch, shape.patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (shape.side // shape.patch) ** 2, shape.channels))
        self.blocks = nn.Sequential(*(Block(shape.channels, shape.heads) for _ in range(shape.blocks)))
        self.norm = nn.LayerNorm(shape.channels)
        self.head = nn.Linear(shape.channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        made: torch.Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return made


def exported(network: nn.Module, path: Path, size: int) -> None:
    """Writes the file."""
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, size, size),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
