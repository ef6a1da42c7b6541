"""Made-up images: of unit variance, drawn by a seed, and the two kinds are unlike."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_condense.refitting.images import Images, dead_leaves, pink


@pytest.mark.parametrize("images", [pink, dead_leaves])
@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (1, 1, 8, 8), (3, 4, 9, 64)])
def test_they_are_of_unit_variance_and_follow_from_the_seed(images: Images, shape: tuple[int, ...]) -> None:
    made = images(np.random.default_rng(3), shape)
    assert made.shape == shape
    assert np.isfinite(made).all()
    assert made.std() == pytest.approx(1)
    np.testing.assert_array_equal(made, images(np.random.default_rng(3), shape))
    assert not np.array_equal(made, images(np.random.default_rng(4), shape))


def test_images_differ_and_things_have_edges() -> None:
    """Steps between neighbours are mostly small, and large at edges; those of noise are normal numbers."""
    kurtosis = {}
    for images in (pink, dead_leaves):
        made = images(np.random.default_rng(0), (4, 3, 64, 64))
        assert not np.array_equal(made[0], made[1])
        steps = np.diff(made, axis=3)
        kurtosis[images] = float((steps**4).mean() / (steps**2).mean() ** 2)
    assert kurtosis[pink] < 4
    assert kurtosis[dead_leaves] > 8
