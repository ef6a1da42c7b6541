"""Multiply-accumulates of products that letters describe, as in an Einsum."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from string import ascii_uppercase

from onnx_condense.arrays import Shape

Term = tuple[tuple[int, str], ...]
"""Operands of a product: the position of an input (-1: the first output) and a letter for each of its axes.

Every letter is a loop; axes that "_" names are none.
"""

ELLIPSIS = "αβγδεζηθ"
"""Letters of the axes that an Einsum does not name, right to left."""


def multiplied(terms: Sequence[Term], inputs: Sequence[Shape], output: Shape) -> int:
    """The multiply-accumulates of some products, given the shapes of a node; () of an input that is left out."""
    return sum(_multiplied([(letters, output if i < 0 else inputs[i]) for i, letters in term]) for term in terms)


def _multiplied(operands: Sequence[tuple[str, Shape]]) -> int:
    sizes: dict[str, int] = {}
    for letters, shape in operands:
        if len(letters) != len(shape):
            return 0
        for letter, size in zip(letters, shape, strict=True):
            if letter != "_" and sizes.get(letter, 1) == 1:
                sizes[letter] = size
    return prod(sizes.values())


def equation(text: str, ranks: Sequence[int]) -> Term | None:
    """The operands of an equation, of these ranks; None of one that does not fit them, or of one operand alone."""
    operands = re.sub(r"\s", "", text).split("->")[0].split(",")
    if len(operands) != len(ranks) or len(ranks) < 2:
        return None
    named = []
    for letters, rank in zip(operands, ranks, strict=True):
        unnamed = rank - len(letters.replace("...", ""))
        if not 0 <= unnamed <= len(ELLIPSIS):
            return None
        named.append(letters.replace("...", ELLIPSIS[:unnamed][::-1]))
    return tuple(enumerate(named))


def matrices(ranks: Sequence[int], turned: Sequence[bool]) -> Term:
    """The operands of a MatMul of tensors of these ranks, the last two axes of which may be turned."""
    ends = ("nk", "km")
    named = []
    for letters, rank, turn in zip(ends, ranks, turned, strict=True):
        last = letters[::-1] if turn else letters
        named.append("k" if rank == 1 else ELLIPSIS[: rank - 2][::-1] + last)
    return tuple(enumerate(named))


def letters_of(text: str | bytes, ranks: Sequence[int]) -> tuple[str, str, str] | None:
    """The axes of two operands of these ranks, and of the result; None where an operand names one twice.

    Axes that an ellipsis stands for get capitals of their own; two operands with such axes are not understood.
    """
    named = re.sub(r"\s", "", text.decode() if isinstance(text, bytes) else text)
    found = re.fullmatch(r"([A-Za-z.]+),([A-Za-z.]+)(?:->([A-Za-z.]*))?", named)
    if found is None or len(ranks) != 2:
        return None
    operands = found.groups()[:2]
    unnamed = [rank - len(letters.replace("...", "")) for rank, letters in zip(ranks, operands, strict=True)]
    if any(n < 0 or (n > 0 and "..." not in letters) for n, letters in zip(unnamed, operands, strict=True)):
        return None
    output = found[3] if found[3] is not None else _implied(operands)
    free = "".join(letter for letter in ascii_uppercase if letter not in named)[: max(unnamed)]
    if min(unnamed) > 0 or len(free) < max(unnamed) or (free and "..." not in output):
        return None
    left, right = (letters.replace("...", free[len(free) - n :]) for letters, n in zip(operands, unnamed, strict=True))
    letters = left, right, output.replace("...", free)
    return letters if all("." not in one and len(set(one)) == len(one) for one in letters) else None


def _implied(operands: Sequence[str]) -> str:
    """The axes of the result of an equation that does not state them: those that are named once."""
    named = "".join(operands).replace(".", "")
    once = "".join(sorted(letter for letter in named if named.count(letter) == 1))
    return ("..." if "..." in "".join(operands) else "") + once
