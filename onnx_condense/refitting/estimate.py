"""Moments of what consumers read, without data or from what sums them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.errors import InputError
from onnx_condense.model.inputs import Feed
from onnx_condense.model.parts import Model, observe
from onnx_condense.operators.actions import Role
from onnx_condense.refitting.consumer import CHUNK, Rows, Site
from onnx_condense.refitting.moments import Moments, Sums
from onnx_condense.refitting.synthetic import standardized, synthetic, unbatched
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Trace

_log = logging.getLogger(__name__)

NOISE_ROWS = 2**14
"""Rows for synthetic inputs."""

NOISE_SAMPLES = 128
"""Synthetic samples; more where each gives a few rows only."""

NOISE = 2**25
"""Numbers that consumers read from the synthetic inputs of one run at most."""

Measure = Callable[[Sequence[Site]], Sequence[Sums | None]]
"""Sums of all features of sites; None where they are not finite."""

Source = str
UNSTATED: Source = "weights"
"""Nothing states the statistics of the channels: they follow from the weights."""


class Estimate:
    """Moments of what consumers read, without data: synthetic inputs through a model whose statistics are kept.

    BatchNormalization states the mean and the deviation of every channel that it makes: it takes the statistics of the
    batch instead of those in the file, so that its outputs have them on synthetic inputs too. A linear map that no
    BatchNormalization follows, and that reads others, gets outputs of mean zero (in a folded file the bias cancels the
    mean of the inputs, and which mean that was is lost): of those moments about zero are used, which a wrong scale of a
    layer does not change.

    `real`: what sums the model's own tensors on real inputs instead (see `sums_of`). Covariances of few rows take in
    those of `prior` as if it had seen as many rows as there are channels.
    """

    def __init__(
        self, trace: Trace, feed: Feed, seed: int, real: Measure | None = None, prior: Estimate | None = None
    ) -> None:
        self.trace = trace
        self.real = real
        self._prior = prior
        self._feed, self._seed = feed, seed
        self._known: dict[int, Moments | None] = {}
        self._normalized = self._normalizations()
        self._free = self._unnormalized()

    def source(self, site: Site) -> Source:
        """What states the statistics of the channels that a site reads: "batch-normalization", or else "weights"."""
        if self.real is not None:
            return "calibration"
        units = self._units(site)
        makers = [
            s.node
            for s in self.trace.slots
            if s.role is Role.PRODUCED and np.isin(self.trace.unit_of[atoms_of(s.labels.reshape(-1))], units).any()
        ]
        return UNSTATED if any(node in self._free for node in makers) else "batch-normalization"

    def _units(self, site: Site) -> Ints:
        """The channels that a site reads, each once."""
        atoms = atoms_of(site.slot.labels.reshape(-1))
        return np.unique(self.trace.unit_of[atoms[atoms >= 0]])

    def moments(self, sites: Sequence[Site]) -> list[Moments | None]:
        """The moments of all features of each site; None where synthetic inputs make none that are finite."""
        wanted = [s for s in sites if s.slot.node not in self._known]
        if wanted:
            self._known.update(self._measured(wanted))
        return [self._known[s.slot.node] for s in sites]

    def _measured(self, sites: Sequence[Site]) -> dict[int, Moments | None]:
        found = sums_of(self._values(sites), sites, NOISE_ROWS, self._seed) if self.real is None else self.real(sites)
        others = [None] * len(sites) if self._prior is None else self._prior.moments(sites)
        return {
            site.slot.node: None if sums is None else self._known_from(site, sums, other)
            for site, sums, other in zip(sites, found, others, strict=True)
        }

    def _known_from(self, site: Site, sums: Sums, other: Moments | None) -> Moments:
        known = sums.moments(self.source(site) != UNSTATED)
        channels = len(self._units(site))
        return known if other is None else known.shrunk(other, channels / (channels + sums.count))

    def _values(self, sites: Sequence[Site]) -> list[Mapping[str, Array]]:
        """What the sites read."""
        behind = self._behind_others()
        centred = {index: form for index, form in self._free.items() if index in behind}
        return [self._observed(standardized(self.trace.facts.model, self._normalized, centred), sites)]

    def _observed(self, model: Model, sites: Sequence[Site]) -> Mapping[str, Array]:
        """What sites read on synthetic inputs, else on the feed that was traced; nothing where neither runs."""
        names = [site.data for site in sites]
        for batch, feed in ((unbatched(model), self._inputs(sites)), (model, self._feed)):
            try:
                (values,) = observe(batch, names, [feed])
                return self._by_sample(values, sites)
            except InputError as error:
                _log.info("no moments from these inputs: %s", error)
        return {}

    def _by_sample(self, values: Mapping[str, Array], sites: Sequence[Site]) -> Mapping[str, Array]:
        """The values; where a Reshape to a stated batch has put several samples into one, samples again."""
        found: dict[str, Array] = {}
        for site in sites:
            value, sizes = values[site.data], self.trace.facts.shapes[site.data]
            if value.shape[site.axis] != sizes[site.axis] and value.size % np.prod(sizes[1:]) == 0:
                value = value.reshape(-1, *sizes[1:])
            if value.shape[site.axis] == sizes[site.axis]:
                found[site.data] = value
        return found

    def _inputs(self, sites: Sequence[Site]) -> Feed:
        """Synthetic inputs, as many samples as the size of what is read allows."""
        facts = self.trace.facts
        largest = max(int(np.prod(shape[1:])) for shape in facts.shapes.values())
        each = max(4 * largest, sum(int(np.prod(facts.shapes[site.data][1:])) for site in sites))
        places = min(int(np.prod(facts.shapes[site.data][1:])) // site.slot.labels.size for site in sites)
        enough = max(NOISE_SAMPLES, NOISE_ROWS // max(1, places))
        count = max(2, min(enough, NOISE // max(1, each)))
        return synthetic(self._feed, count, self._seed)

    def _normalizations(self) -> dict[int, tuple[int, int, float]]:
        facts, found = self.trace.facts, {}
        for index, action in self.trace.actions.items():
            if action.normalization is not None:
                shape = facts.shapes[facts.nodes[index].inputs[0].name]
                if len(shape) >= 2:
                    found[index] = len(shape), shape[1], action.normalization.epsilon
        return found

    def _unnormalized(self) -> dict[int, tuple[int, int, int]]:
        """Linear maps that no BatchNormalization follows: node index -> (rank of output, produced axis, channels)."""
        facts, found = self.trace.facts, {}
        for index, action in self.trace.actions.items():
            axis = action.made_axis
            if axis is None:
                continue
            output = facts.nodes[index].outputs[0].name
            if any(reader not in self._normalized for reader, _ in facts.consumers(output)):
                found[index] = len(facts.shapes[output]), axis, facts.shapes[output][axis]
        return found

    def _behind_others(self) -> set[int]:
        """Nodes whose inputs come through a linear map; what reads the model's inputs sees what was fed."""
        reached: set[str] = set()
        found: set[int] = set()
        for index, node in enumerate(self.trace.facts.nodes):
            if any(t.name in reached for t in node.inputs):
                found.add(index)
            action = self.trace.actions.get(index)
            if index in found or (action is not None and (action.lookup or action.made_axis is not None)):
                reached.update(t.name for t in node.outputs if t.name)
        return found


def sums_of(
    values: Iterable[Mapping[str, Array]], sites: Sequence[Site], most: int, seed: int | Sequence[int]
) -> list[Sums | None]:
    """Sums of what each site reads, at most about so many rows of each item; None where something is not finite."""
    result: list[Sums | None] = [Sums(site.slot.labels.size * site.taps, 0) for site in sites]
    generator = np.random.default_rng(seed)
    for known in values:
        for number, (site, sums) in enumerate(zip(sites, result, strict=True)):
            if site.data not in known or not np.isfinite(known[site.data]).all():
                result[number] = None
            elif sums is not None:
                for rows in _chunks(Rows.of(site, known[site.data]), most, generator):
                    sums.add(rows, rows[:, :0])
    return result


def _chunks(rows: Rows, most: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Rows of features, a few at a time; no more than `most` are drawn."""
    total = rows.samples * rows.positions
    drawn = np.arange(total) if total <= most else np.sort(generator.choice(total, most, replace=False))
    step = max(1, CHUNK // rows.features)
    for start in range(0, len(drawn), step):
        yield rows.at(*np.divmod(drawn[start : start + step], rows.positions))
