"""Writes models/digits.npz: scikit-learn's bundled 8x8 digits, so that the numpy trainer needs no scikit-learn.

    pip install scikit-learn && python tools/export_digits.py

`images` uint8 [1797, 64] (0 to 16), `labels` uint8 [1797], in scikit-learn's order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

images, labels = load_digits(return_X_y=True)
target = Path(__file__).resolve().parent.parent / "models" / "digits.npz"
np.savez_compressed(target, images=images.astype(np.uint8), labels=labels.astype(np.uint8))
