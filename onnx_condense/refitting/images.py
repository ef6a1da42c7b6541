"""Made-up images of two kinds: what is fitted to one kind is tried on the other. Numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats

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
    image = np.broadcast_to(colours[-1][:, None, None], texture.shape).copy()
    least, most = max(1.5, SMALLEST * max(sides)), LARGEST * max(sides)
    radii = (least**-2 - generator.random(LEAVES) * (least**-2 - most**-2)) ** -0.5
    for radius, colour in zip(radii, colours[:-1], strict=True):
        place, inside = _leaf(generator, radius, sides)
        contrast = TEXTURE * generator.random()
        image[:, *place][:, inside] = colour[:, None] + contrast * texture[:, *place][:, inside]
    return image


def _leaf(generator: np.random.Generator, radius: float, sides: list[int]) -> tuple[tuple[slice, slice], Bools]:
    """Where in an image of these sides a thing is, and which pixels there are in it."""
    middle = generator.random(2) * sides
    first, last = middle - 1.5 * radius, middle + 1.5 * radius + 1
    rows, columns = (slice(max(0, int(a)), min(side, int(b))) for a, b, side in zip(first, last, sides, strict=True))
    y, x = np.ogrid[rows, columns]
    y, x = y - middle[0], x - middle[1]
    angle, flatness = np.pi * generator.random(), FLATTEST + (1 - FLATTEST) * generator.random()
    along = np.cos(angle) * x + np.sin(angle) * y
    across = (np.cos(angle) * y - np.sin(angle) * x) / flatness
    is_round = generator.random() < 0.5
    inside = np.hypot(along, across) < radius if is_round else np.maximum(abs(along), abs(across)) < radius
    return (rows, columns), np.asarray(inside)
