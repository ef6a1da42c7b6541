"""What the two classifiers share: scikit-learn's bundled 8x8 digits and the training on them."""

from argparse import Namespace

import numpy as np
import torch
from _training import FitSettings, Split, fit, initialize_small, make_deterministic, save_model
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import nn

CLASSES = 10
TEST_SHARE = 0.25


def load_split(seed: int) -> Split:
    """Return the images in [0, 1] as (sample, 1, 8, 8) with their labels, split by class."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).reshape(-1, 1, 8, 8).astype(np.float32)
    x, x_test, y, y_test = train_test_split(
        images, labels.astype(np.int64), test_size=TEST_SHARE, stratify=labels, random_state=seed
    )
    return Split(x, y, x_test, y_test)


def train_classifier(model: nn.Module, gamma: float, settings: FitSettings, arguments: Namespace) -> None:
    """Initialize the model small, train it on the digits and write it with its test images."""
    make_deterministic(arguments.seed)
    split = load_split(arguments.seed)
    initialize_small(model, gamma)
    inputs, labels = torch.as_tensor(split.train_inputs), torch.as_tensor(split.train_targets)
    fit(model, inputs, labels, nn.CrossEntropyLoss(), settings)
    save_model(model, split, arguments.out)
