"""Which streams, and which channels of products of data, are turned into another basis before anything is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from onnx_condense.errors import left_alone
from onnx_condense.factoring.exact import exact_factor
from onnx_condense.factoring.products import Product, apart, filled, products
from onnx_condense.factoring.rotation import balanced, deficient
from onnx_condense.factoring.streams import Stream, streams
from onnx_condense.factoring.weights import Factorable
from onnx_condense.forms.bases import Rotation
from onnx_condense.goals import Share
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Options
from onnx_condense.planning.selection import chosen_groups, chosen_weights
from onnx_condense.planning.thresholds import Planner
from onnx_condense.planning.units import Units
from onnx_condense.prepare import Clock, Opened, reopened_where_it_fits
from onnx_condense.refitting.consumer import consumer_of
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.pairs import sides
from onnx_condense.refitting.reading import Source
from onnx_condense.refitting.summing import measured
from onnx_condense.tracing.trace import Group


def turned(opened: Opened, clock: Clock) -> Opened:
    """A model with its streams in the bases that its run asks for; as it was where there are none.

    Weights that a form only made (copies of bodies, members of stacks) are not where streams are turned.
    """
    with clock("plan"):
        rotations = rotations_of(opened)
    return reopened_where_it_fits(opened, clock, replace(opened.before, rotations=rotations)) if rotations else opened


def rotations_of(opened: Opened) -> tuple[Rotation, ...]:
    """The bases that a run asks for: exact ones with --lossless, balanced ones for shares with calibration inputs."""
    options, trace = opened.options, opened.trace
    goal, calibrates = options.goal, MANNERS[options.method].calibrates and opened.calibration.chooses
    if options.widths_only or not (options.lossless or (isinstance(goal, Share) and calibrates)):
        return ()
    groups = chosen_groups(trace, options)
    found, pairs = list(streams(trace, groups)), list[Product]()
    with left_alone("products of data"):
        pairs = list(products(trace, groups))
    if isinstance(goal, Share) and calibrates:
        kept = tuple(_balanced(opened, found, pairs))
        return () if not kept or _is_reached(opened, goal) else kept
    return tuple(_exact(opened, found, pairs))


def _exact(opened: Opened, found: Sequence[Stream], pairs: Sequence[Product]) -> Iterator[Rotation]:
    """The bases in which fewer channels are left than channels merge into as they are, without loss."""
    trace, twin, merged = opened.trace, Twin(opened.trace), _Merged(opened)
    for stream in found:
        for rotation in _chosen(stream.group, partial(deficient, stream, twin)):
            if rotation.rank < merged.width(stream.group):
                yield rotation
    weights = {weight.place: weight for weight in chosen_weights(trace, opened.options)}
    for product in pairs:
        held = [
            weights[place] for slot in trace.pairs_of(product.group) if (place := (slot.node, slot.input)) in weights
        ]
        yield from _chosen(product.group, partial(_filled, product, twin, held, merged))


def _filled(product: Product, twin: Twin, held: Sequence[Factorable], merged: _Merged) -> Sequence[Rotation]:
    """The bases of a product of data; nothing where a pair of factors holds a weight in less."""
    bases = filled(twin.trace, product, merged.width)
    return bases if bases and all(exact_factor(twin, weight) is None for weight in held) else []


def _balanced(opened: Opened, found: Sequence[Stream], pairs: Sequence[Product]) -> Iterator[Rotation]:
    """The bases in which least is lost of streams and of products of data, as calibration inputs say."""
    if not (found or pairs):
        return
    trace, seed = opened.trace, opened.options.seed
    readers = [consumer_of(trace, slot) for stream in found for slot in stream.slots]
    ahead: list[Source] = [reader for reader in readers if reader is not None]
    ahead += [side for product in pairs for side in sides(trace, product.group)]
    real, prior = measured(trace, opened.calibration, seed, ahead), Estimate.beside_real(trace, opened.feeds[0], seed)
    estimate, twin = Estimate(trace, opened.feeds[0], seed, real, prior), Twin(trace)
    with left_alone("streams in other bases"):
        estimate.moments(ahead)
    for stream in found:
        yield from _chosen(stream.group, partial(balanced, stream, twin, estimate))
    for product in pairs:
        yield from _chosen(product.group, partial(apart, trace, product, estimate))


def _is_reached(opened: Opened, goal: Share) -> bool:
    """Whether merges of the channels as they are reach a share without loss."""
    exact, size = Options(lossless=True, depthwise=opened.options.depthwise), Units(goal.unit).size
    groups = chosen_groups(opened.trace, opened.options)
    return size(Planner(opened.trace, exact, 1, groups).build().twin) <= goal.share * size(Twin(opened.whole))


@dataclass(frozen=True)
class _Merged:
    """How many channels merges leave of a model as it is."""

    opened: Opened

    @cached_property
    def plans(self) -> Mapping[int, GroupPlan]:
        """Of its groups, by index."""
        opened = self.opened
        groups = chosen_groups(opened.trace, opened.options)
        return Planner(opened.trace, opened.options, 1, groups).build().twin.plans

    def width(self, group: Group) -> int:
        """Channels of a group."""
        plan = self.plans.get(group.index)
        return len(group.units) if plan is None else len(plan.keep)


def _chosen(group: Group, choose: Callable[[], Sequence[Rotation]]) -> Sequence[Rotation]:
    """What is chosen for a group; nothing where that fails."""
    with left_alone(group.layers[0]):
        return choose()
    return []
