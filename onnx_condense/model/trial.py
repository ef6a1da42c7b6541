"""A model that is tried on inputs, and the shapes of its tensors that are seen by the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnx_condense.arrays import Array, Shape
from onnx_condense.errors import InputError
from onnx_condense.model.outputs import Outputs, arrays
from onnx_condense.model.runtime import Session, released, run, sizing

KEPT = 2**25
"""Bytes of outputs that are kept at most."""


def digest(feeds: Iterable[Mapping[str, Array]]) -> str:
    """The sha256 of feeds: their names, types, shapes and bytes."""
    found = hashlib.sha256()
    for feed in feeds:
        for name, array in feed.items():
            found.update(repr((name, array.dtype.name, array.shape)).encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class Trial:
    """Runs a model on inputs, unoptimized, in one session that is opened when it is first needed.

    Args:
        model: the model.
        measuring: the same with more outputs, behind its own: the shapes of tensors inside it.
        inside: the names of these.
    """

    def __init__(
        self, model: onnx.ModelProto, measuring: onnx.ModelProto | None = None, inside: Sequence[str] = ()
    ) -> None:
        self._model = model
        self._measuring = measuring
        self._inside = tuple(inside)
        self._seen: dict[str, list[Shape]] = {}
        self._given: dict[str, Outputs] = {}
        self._room = KEPT

    @cached_property
    def _session(self) -> tuple[Session, bool]:
        """A session, and whether it measures. Raises InputError when onnxruntime refuses the model."""
        try:
            if self._measuring is not None:
                return sizing(self._measuring), True
        except InputError:
            pass
        return sizing(self._model), False

    def load(self) -> None:
        """Opens the session. Raises InputError when onnxruntime refuses the model."""
        _ = self._session

    @cached_property
    def types(self) -> dict[str, str]:
        """Output -> its type, as onnxruntime names it."""
        outputs = self._session[0].get_outputs()
        return {output.name: output.type for output in outputs[: len(self._model.graph.output)]}

    def __call__(self, feed: Mapping[str, Array], inside: bool = True) -> list[Any]:
        """The outputs of the model, as onnxruntime gives them; `inside`: shapes are seen, too. Raises InputError."""
        active, measures = self._session
        found: list[Any] = run(active, None if inside else [*self.types], feed)
        own = len(self.types)
        key, given = digest([feed]), [*map(released, found[:own])]
        if measures and inside:
            self._seen[key] = [tuple(value.tolist()) for value in found[own:]]
        if key not in self._given:
            outputs = arrays(self.types, given)
            self._room -= sum(value.nbytes for value in outputs.values())
            if self._room >= 0:
                self._given[key] = outputs
        return given

    def outputs(self, feed: Mapping[str, Array]) -> Outputs | None:
        """The outputs, of any shape, on a feed that was tried; None for others, and where too many were tried."""
        return self._given.get(digest([feed]))

    def shapes(self, feed: Mapping[str, Array]) -> Mapping[str, Shape] | None:
        """The shapes of the tensors inside on a feed that was tried, by name; None for any other."""
        seen = self._seen.get(digest([feed])) if self._seen else None
        return None if seen is None else dict(zip(self._inside, seen, strict=True))

    def close(self) -> None:
        """Gives the session and the model back; what was seen stays."""
        vars(self).pop("_session", None)
        self._measuring = None
        self._given = {}
