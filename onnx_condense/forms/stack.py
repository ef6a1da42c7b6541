"""The stack of forms that a model is brought into before it is traced.

Some are left again after it was written (bodies, integers); the others are for good (`for_good`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import onnx

from onnx_condense.model.inputs import Feed
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.wiring import Copy

Leave = Callable[[onnx.ModelProto, onnx.ModelProto], onnx.ModelProto]
"""Brings a model that was written out of a form, given the model as it was traced too."""


class Skipped(NamedTuple):
    """A body that did not enter a form: the layer, the reason, and its weights' size in parameters."""

    layer: str
    reason: Reason
    parameters: int


@dataclass(frozen=True)
class Entered:
    """A model in the forms that it entered, one after the other.

    feed, others: its inputs, once they are known; the others have other sizes on symbolic axes. exits: how the forms
    are left, in the order in which they were entered. copies: of bodies.
    skipped: bodies that were not copied. plain: whether the forms that are left again hold the weights of the model as
    it came, and compute what that does.
    """

    model: onnx.ModelProto
    feed: Feed = field(default_factory=dict)
    others: tuple[Feed, ...] = ()
    exits: tuple[Leave, ...] = ()
    copies: tuple[Copy, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    plain: bool = True

    def into(self, *forms: Form) -> Entered:
        """The model in these forms, too."""
        entered = self
        for form in forms:
            entered = form(entered)
        return entered

    def then(self, model: onnx.ModelProto, leave: Leave, plain: bool = False) -> Entered:
        """The model in one more form."""
        return replace(self, model=model, exits=(*self.exits, leave), plain=self.plain and plain)

    def leave(self, written: onnx.ModelProto, traced: onnx.ModelProto) -> onnx.ModelProto:
        """A model that was written in these forms, out of all of them; `traced`: the model before it was written."""
        for place, leave in reversed(list(enumerate(self.exits))):
            written, traced = leave(written, traced), leave(traced, traced) if place else traced
        return written


Form = Callable[[Entered], Entered]


def for_good(change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Form:
    """A form that is never left: what is written stays in it."""

    def enter(entered: Entered) -> Entered:
        return replace(entered, model=change(entered.model))

    return enter
