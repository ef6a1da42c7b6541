"""What consumers read of noise, through a model whose statistics are kept: moments without data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx

from onnx_condense.arrays import Array, Shape
from onnx_condense.errors import InputError
from onnx_condense.model.inputs import Feed
from onnx_condense.model.outputs import batch_in
from onnx_condense.model.parts import observe
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.reading import Source
from onnx_condense.refitting.summing import ENOUGH, sums_of
from onnx_condense.refitting.synthetic import BatchStatistics, Span, has_floats, standardized, synthetic, unbatched
from onnx_condense.tracing.trace import Trace

SAMPLES = 128
"""Synthetic samples; more where each gives a few rows only."""

NUMBERS = 2**25
"""Numbers that consumers read from the synthetic inputs of one run at most."""

RUNS = 8
"""Most runs on synthetic sequences, whose tensors are large beside the rows that some consumers read of them."""

_log = logging.getLogger(__name__)


class Noise:
    """Sums what consumers read on synthetic inputs.

    BatchNormalization states the mean and the deviation of every channel that it makes: it takes the statistics of the
    batch instead of those in the file, so that its outputs have them on synthetic inputs too. A linear map that no
    BatchNormalization follows, and that reads others, gets outputs of mean zero (in a folded file the bias cancels the
    mean of the inputs, and which mean that was is lost): of those moments about zero are used, which a wrong scale of a
    layer does not change.

    Attributes:
        unstated: the linear maps that no BatchNormalization follows, by node.
        repeats: whether inputs of integers alone, of which none are made up, are run again and again.
    """

    def __init__(self, trace: Trace, feed: Feed, seed: int, span: Span | None = None) -> None:
        self.repeats = True
        self._facts, self._actions = trace.facts, trace.actions
        self._feed, self._seed, self._span = feed, seed, span
        self._normalized = dict(self._normalizations())
        self.unstated: Mapping[int, BatchStatistics] = dict(self._unnormalized())

    def __call__(self, consumers: Sequence[Source]) -> list[Sums | None]:
        """Sums of what each consumer reads; None where nothing that is finite can be computed."""
        behind = self._behind_others()
        centred = {index: found for index, found in self.unstated.items() if index in behind}
        model = standardized(self._facts.model, {**centred, **self._normalized})
        drawn = [np.random.default_rng(self._seed)] * len(consumers)
        return sums_of(self._observed(model, consumers), consumers, ENOUGH, drawn)

    def _observed(self, model: onnx.ModelProto, consumers: Sequence[Source]) -> Iterator[Mapping[str, Array]]:
        """What consumers read on synthetic inputs, else on the feed that was traced; nothing where neither runs."""
        names = [consumer.reads.tensor for consumer in consumers]
        for batch, feeds in ((unbatched(model), self._inputs(consumers)), (model, [self._feed])):
            try:
                for values in observe(batch, names, feeds):
                    yield self._by_sample(values, consumers)
            except InputError as error:
                _log.info("no moments from these inputs: %s", error)
            else:
                return
        yield {}

    def _by_sample(self, values: Mapping[str, Array], consumers: Sequence[Source]) -> Mapping[str, Array]:
        """The values; where a Reshape to a stated batch has put several samples into one, samples again."""
        found: dict[str, Array] = {}
        for name, axis in ((consumer.reads.tensor, consumer.reads.axis) for consumer in consumers):
            value, sizes = values[name], self._facts.shapes[name]
            if value.shape[axis] != sizes[axis] and value.size % np.prod(sizes[1:]) == 0:
                value = value.reshape(-1, *sizes[1:])
            if value.shape[axis] == sizes[axis]:
                found[name] = value
        return found

    def _inputs(self, consumers: Sequence[Source]) -> list[Feed]:
        """Synthetic inputs, as many samples as the size of what is read allows; of sequences in several runs."""
        shapes = self._facts.shapes
        read = [int(np.prod(shapes[consumer.reads.tensor][1:])) for consumer in consumers]
        largest = max(self._per_sample(shape) for shape in shapes.values())
        places = min(size // consumer.channels for size, consumer in zip(read, consumers, strict=True))
        enough = max(SAMPLES, ENOUGH // max(1, places))
        if not (self.repeats or has_floats(self._feed)):
            enough = min(enough, max(2, batch_in(self._feed)))
        count = max(2, min(enough, NUMBERS // max(1, 4 * largest, sum(read))))
        runs = min(RUNS, -(-enough // count)) if self._steps_first else 1
        return [synthetic(self._feed, count, self._seed + number, self._span) for number in range(runs)]

    @cached_property
    def _steps_first(self) -> bool:
        """Whether tensors may have the steps of sequences on their first axis."""
        return any(action.recurrent for action in self._actions.values())

    def _per_sample(self, shape: Shape) -> int:
        """How many numbers of a tensor a sample has; those of sequences may have their steps first."""
        batch = batch_in(self._feed)
        return int(np.prod(shape)) // batch if self._steps_first else int(np.prod(shape[1:]))

    def _normalizations(self) -> Iterator[tuple[int, BatchStatistics]]:
        for index, action in self._actions.items():
            if action.normalization is not None:
                shape = self._facts.shapes[self._facts.nodes[index].inputs[0].name]
                if len(shape) >= 2:
                    yield index, BatchStatistics(len(shape), 1, shape[1], action.normalization.epsilon)

    def _unnormalized(self) -> Iterator[tuple[int, BatchStatistics]]:
        for index, action in self._actions.items():
            axis = action.made_axis
            if axis is None:
                continue
            output = self._facts.nodes[index].outputs[0].name
            if any(reader not in self._normalized for reader, _ in self._facts.consumers(output)):
                shape = self._facts.shapes[output]
                yield index, BatchStatistics(len(shape), axis, shape[axis])

    def _behind_others(self) -> set[int]:
        """Nodes whose inputs come through a linear map; what reads the model's inputs sees what was fed."""
        reached: set[str] = set()
        found: set[int] = set()
        for index, node in enumerate(self._facts.nodes):
            if any(t.name in reached for t in node.inputs):
                found.add(index)
            action = self._actions.get(index)
            if index in found or (action is not None and (action.lookup or action.made_axis is not None)):
                reached.update(t.name for t in node.outputs if t.name)
        return found
