"""What generators of graphs ask: hypothesis answers, or a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Choices(Protocol):
    """Answers."""

    def pick(self, values: Sequence[T]) -> T: ...

    def number(self, low: int, high: int) -> int:
        """Both ends included."""

    def order(self, count: int) -> list[int]:
        """A permutation."""


class Drawn:
    """Choices that hypothesis shrinks."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def pick(self, values: Sequence[T]) -> T:
        return self._draw(st.sampled_from(values))

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def order(self, count: int) -> list[int]:
        return list(self._draw(st.permutations(range(count))))


class Seeded:
    """The choices of a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, values: Sequence[T]) -> T:
        return self._random.choice(values)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def order(self, count: int) -> list[int]:
        return self._random.sample(range(count), count)
