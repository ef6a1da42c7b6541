"""How far a run is, below the cell of a notebook: `with Progress() as progress: condense(model, progress=progress)`."""

from __future__ import annotations

from html import escape
from importlib.util import find_spec
from typing import Any

from onnx_condense.errors import UsageError, visible
from onnx_condense.progress import Watch

__all__ = ["Progress"]


class Progress:
    """An element that is written anew with each stage: its name, how far it is, the time, and about what is left.

    Raises UsageError where there is no IPython.
    """

    def __init__(self) -> None:
        if find_spec("IPython") is None:
            raise UsageError("progress in a notebook needs IPython: elsewhere pass a function of the stage's name")
        self._watch = Watch()
        self._handle: Any = None

    def __call__(self, stage: str) -> None:
        """A stage begins."""
        self._watch.begin(stage)
        far = f' max="{self._watch.total}" value="{self._watch.done}"' if self._watch.total else ""
        self._show(f"<progress{far}></progress> {escape(visible(stage))} <small>{self._watch.times}</small>")

    def __enter__(self) -> Progress:
        """Shows it while the block runs."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        """Says how long it took."""
        self._watch.begin("")
        self._show(f"<small>{'ended' if kind else 'done'} after {self._watch.times}</small>")

    def _show(self, text: str) -> None:
        from IPython import display

        shown: Any = display  # its functions state no types
        if self._handle is None:
            self._handle = shown.display(shown.HTML(text), display_id=True)
        elif self._handle:
            self._handle.update(shown.HTML(text))
