"""Train a small Conv + BatchNormalization + ReLU classifier of scikit-learn's 8x8 digits; export it to ONNX.

    pip install . --group train && python tools/train_digits_conv.py [--seed 0] [--out models/digits_conv_bn.onnx]

The BatchNormalization nodes stay in the file, in inference form.
"""

from collections import OrderedDict

from _digits import CLASSES, train_classifier
from _training import FitSettings, parse_arguments
from torch import nn

WIDTHS = (32, 64, 64)
DROPOUT = 0.3  # of whole channels, in training only: it makes channels condense
GAMMA = 1.0
SETTINGS = FitSettings(optimizer="sgd", steps=5000, batch_size=32, learning_rate=0.1, weight_decay=4e-3, noise=0.1)


def build() -> nn.Sequential:
    """Return three 3x3 convolutions with one max pooling, global average pooling and a linear layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 1
    for index, width in enumerate(WIDTHS, start=1):
        layers[f"conv{index}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers[f"norm{index}"] = nn.BatchNorm2d(width)
        layers[f"relu{index}"] = nn.ReLU()
        layers[f"dropout{index}"] = nn.Dropout2d(DROPOUT)
        if index == 2:
            layers["maxpool"] = nn.MaxPool2d(2)
        channels = width
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels, CLASSES)
    return nn.Sequential(layers)


def main() -> None:
    """Train and export."""
    train_classifier(build(), GAMMA, SETTINGS, parse_arguments(__doc__, "digits_conv_bn.onnx"))


if __name__ == "__main__":
    main()
