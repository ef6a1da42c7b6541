"""Train a MobileNetV2-style classifier of scikit-learn's 8x8 digits and export it to ONNX.

    pip install . --group train && python tools/train_digits_mobilenet.py [--seed 0] [--out FILE.onnx]

Every module is: pointwise expansion, BatchNormalization, ReLU6; depthwise 3x3, BatchNormalization, ReLU6;
pointwise projection, BatchNormalization; and the residual sum where the shapes agree. The
BatchNormalization nodes stay in the file, in inference form.
"""

from collections import OrderedDict

from _digits import CLASSES, train_classifier
from _training import FitSettings, parse_arguments
from torch import Tensor, nn

STEM_WIDTH, HEAD_WIDTH, EXPANSION = 16, 128, 4
MODULES = ((16, 1), (24, 1), (24, 1), (32, 2), (32, 1))  # (output channels, stride)
GAMMA = 1.0
SETTINGS = FitSettings(optimizer="sgd", steps=4000, batch_size=32, learning_rate=0.1, weight_decay=3e-3, noise=0.1)


def normalized(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias and its BatchNormalization."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(outputs)))


class InvertedResidual(nn.Module):
    """A MobileNetV2 module."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * EXPANSION
        self.expand = normalized(inputs, hidden, 1)
        self.expand_relu = nn.ReLU6()
        self.depthwise = normalized(hidden, hidden, 3, stride, groups=hidden)
        self.depthwise_relu = nn.ReLU6()
        self.project = normalized(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.depthwise_relu(self.depthwise(self.expand_relu(self.expand(x))))
        projected: Tensor = self.project(hidden)
        return x + projected if self.residual else projected


def build() -> nn.Sequential:
    """Return the stem, the modules, the last pointwise convolution and the classifier."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=normalized(1, STEM_WIDTH, 3), stem_relu=nn.ReLU6())
    channels = STEM_WIDTH
    for index, (width, stride) in enumerate(MODULES, start=1):
        layers[f"module{index}"] = InvertedResidual(channels, width, stride)
        channels = width
    layers["head"] = normalized(channels, HEAD_WIDTH, 1)
    layers["head_relu"] = nn.ReLU6()
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(HEAD_WIDTH, CLASSES)
    return nn.Sequential(layers)


def main() -> None:
    """Train and export."""
    train_classifier(build(), GAMMA, SETTINGS, parse_arguments(__doc__, "digits_mobilenet.onnx"))


if __name__ == "__main__":
    main()
