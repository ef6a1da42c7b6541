"""Made-up images on which choices are tried without data, of another kind than those that weights are fitted to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_condense.errors import InputError
from onnx_condense.merging.twin import Twin
from onnx_condense.model.inputs import Feed
from onnx_condense.model.outputs import sample_size, samples_in
from onnx_condense.planning.written import judged
from onnx_condense.prepare import Opened
from onnx_condense.proving.compare import Varying, is_told, results
from onnx_condense.refitting.images import Images, dead_leaves, pink
from onnx_condense.refitting.synthetic import has_images, synthetic

NUMBERS = 2**19
"""Numbers of made-up images on which every choice is tried, in about so many images; twice as many judge."""

FEWEST, MOST = 4, 32
"""But not fewer of these images, nor more."""

APART = 1000
"""Between the seeds of images that are tried and of those that judge."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MadeUp:
    """Images that networks were not fitted to. tries: what every choice is tried on. judging: what judges in the end.

    expected: what the original makes of the latter.
    """

    tries: Sequence[Feed]
    judging: Sequence[Feed]
    expected: Varying

    @staticmethod
    def of(opened: Opened) -> MadeUp | None:
        """None where inputs are given, there are no images among them, or such images do not run or move no output."""
        feed = opened.without_data[0]
        if opened.options.data is not None or not has_images(feed):
            return None
        count = int(np.clip(NUMBERS // sample_size(feed), FEWEST, MOST))
        tries, judging = (like(opened, feed, APART * n, n * count, dead_leaves) for n in (1, 2))
        try:
            found = results(opened.source.proto, [*tries, *judging])
        except InputError as error:
            _log.info("nothing is tried on made-up images: %s", error)
            return None
        expected = found[len(tries) :]
        return MadeUp(tries, judging, Varying(expected)) if is_told(None, expected, judging) else None

    def error(self, twin: Twin) -> float:
        """The relative error of a twin's outputs, of what differs between images."""
        return judged(twin, self._error)

    def _error(self, model: onnx.ModelProto) -> float:
        return self.expected.compare(results(model, self.judging)).error


def like(opened: Opened, feed: Feed, seed: int, samples: int, images: Images = pink) -> list[Feed]:
    """Made-up feeds like one, of about so many samples in all; seed: beside that of the run."""
    first = opened.options.seed + seed
    made = [synthetic(feed, None, first + n, opened.span, images) for n in range(-(-samples // samples_in(feed)))]
    return [{name: found if feed[name].ndim else feed[name] for name, found in one.items()} for one in made]
