"""Made-up images of two kinds: what is fitted to one kind is tried on the other. Numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints

Images = Callable[[np.random.Generator, tuple[int, ...]], Array]
"""[n, c, h, w] images of unit variance, of this shape."""

PINK = 1.0
"""Exponent of the amplitude spectrum 1 / frequency of images of noise, as natural images have it."""

GREY = 0.9
"""Share of an image's variance that its colours have in common."""

LEAVES = 150
"""Things in an image."""

SMALLEST, LARGEST = 0.02, 0.5
"""Their radii, as shares of the image's larger side; and no radius is under a pixel and a half."""

TEXTURE = 0.6
"""Largest contrast within a thing, of what the contrast between things is."""

FLATTEST = 0.4
"""Smallest ratio of the axes of a thing."""


def pink(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """[n, c, h, w] images of unit variance: noise whose amplitudes fall with frequency."""
    n, c, h, w = shape
    frequency = np.sqrt(np.fft.fftfreq(h)[:, None] ** 2 + np.fft.rfftfreq(w)[None] ** 2)
    frequency[0, 0] = 1 / max(h, w)
    white = GREY**0.5 * generator.standard_normal((n, 1, h, w))
    white = white + (1 - GREY) ** 0.5 * generator.standard_normal((n, c, h, w))
    images = np.fft.irfft2(np.fft.rfft2(white) / frequency**PINK, s=(h, w))
    return np.asarray(images / images.std())


def dead_leaves(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """[n, c, h, w] images of unit variance: ellipses and rectangles that hide each other, with pink texture.

    Their radii r are as r^-3, as that of things in natural images (Lee, Mumford and Huang, "Occlusion models for
    natural images", 2001): edges, corners and areas of all sizes.
    """
    images = np.stack([_image(generator, texture) for texture in pink(generator, shape)])
    return np.asarray(images / images.std())


def _image(generator: np.random.Generator, texture: Floats) -> Floats:
    """[c, h, w] one image, of a texture of this shape."""
    channels, *sides = texture.shape
    colours = GREY**0.5 * generator.standard_normal((LEAVES + 1, 1))
    colours = colours + (1 - GREY) ** 0.5 * generator.standard_normal((LEAVES + 1, channels))
    least, most = max(1.5, SMALLEST * max(sides)), LARGEST * max(sides)
    radii = (least**-2 - generator.random(LEAVES) * (least**-2 - most**-2)) ** -0.5
    *where, contrasts = generator.random((LEAVES, 6)).T
    seen = _seen(radii, np.stack(where), sides)
    contrast = np.append(TEXTURE * contrasts, 0.0)
    return np.asarray(np.moveaxis(colours[seen], 2, 0) + contrast[seen] * texture)


def _seen(radii: Floats, where: Floats, sides: list[int]) -> Ints:
    """[h, w] which thing is seen in each pixel of an image of these sides: the last that is there; -1 for none.

    radii: [m]. where: [5, m] from 0 to 1: middles, down and to the right, angles, flatness, and which are round.
    """
    down, right = where[:2] * np.array(sides)[:, None]
    cosines, sines = np.cos(np.pi * where[2]), np.sin(np.pi * where[2])
    flatness = FLATTEST + (1 - FLATTEST) * where[3]
    rows, columns = np.arange(sides[0])[:, None], np.arange(sides[1])
    seen = np.full(sides, -1)
    for n, radius in enumerate(radii):
        window = _around(down[n], radius, sides[0]), _around(right[n], radius, sides[1])
        y, x = rows[window[0]] - down[n], columns[window[1]] - right[n]
        along, across = cosines[n] * x + sines[n] * y, (cosines[n] * y - sines[n] * x) / flatness[n]
        size = np.hypot(along, across) if where[4, n] < 0.5 else np.maximum(abs(along), abs(across))
        seen[window][size < radius] = n
    return seen


def _around(middle: float, radius: float, side: int) -> slice:
    """The pixels of a side that a thing may be in."""
    return slice(max(0, int(middle - 1.5 * radius)), min(side, int(middle + 1.5 * radius + 1)))
