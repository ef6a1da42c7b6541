"""Which groups the options choose, and at which thresholds: globs over the names of nodes and weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from onnx_condense.errors import UsageError
from onnx_condense.factoring.weights import Factorable, factorable
from onnx_condense.operators.answers import Role
from onnx_condense.options import DEFAULT_THRESHOLD, Options
from onnx_condense.tracing.trace import Group, Trace, layer_name


def chosen_groups(trace: Trace, options: Options) -> tuple[Group, ...]:
    """The groups that --include and --exclude leave, in topological order.

    Raises UsageError for a glob that matches no node and no weight of the model.
    """
    _check_globs(trace, options)
    return tuple(group for group in trace.groups if _is_chosen(trace, group, options))


def thresholds_of(trace: Trace, groups: Sequence[Group], options: Options) -> dict[int, float]:
    """Group index -> the threshold that the options ask for; the last glob that matches wins."""
    result = {group.index: options.threshold or DEFAULT_THRESHOLD for group in groups}
    for pattern, value in options.layer_threshold:
        result.update((g.index, value) for g in groups if _matches(_names(trace, g), pattern))
    return result


def _names(trace: Trace, group: Group) -> list[str]:
    """What a glob may match: the nodes that make or carry the group's channels, and their weights."""
    nodes = trace.facts.nodes
    places = [(s.node, s.input) for s in trace.slots_of(group) if s.role is not Role.CONTRACTED]
    names = [nodes[node].name for node, _ in places] + [nodes[node].inputs[i].name for node, i in places]
    return [*group.layers, *names]


def _check_globs(trace: Trace, options: Options) -> None:
    nodes = trace.facts.nodes
    known = {n.name for n in nodes} | {layer_name(n, i) for i, n in enumerate(nodes)} | trace.facts.static
    given = {
        "--include": options.include,
        "--exclude": options.exclude,
        "--layer-threshold": [pattern for pattern, _ in options.layer_threshold],
    }
    for option, patterns in given.items():
        for pattern in patterns:
            if not _matches(known, pattern):
                raise UsageError(f"{option} {pattern} matches no node or weight: onnx-condense inspect names them")


def chosen_weights(trace: Trace, options: Options) -> tuple[Factorable, ...]:
    """The weights that may become pairs of factors and that --include and --exclude leave, in graph order."""
    if options.widths_only:
        return ()
    return tuple(weight for weight in factorable(trace) if is_left([weight.layer, weight.name], options))


def _is_chosen(trace: Trace, group: Group, options: Options) -> bool:
    return not (options.include or options.exclude) or is_left(_names(trace, group), options)


def is_left(names: Sequence[str], options: Options) -> bool:
    """Whether --include and --exclude leave what has these names."""
    included = not options.include or any(_matches(names, p) for p in options.include)
    return included and not any(_matches(names, p) for p in options.exclude)


def _matches(names: Iterable[str], pattern: str) -> bool:
    return any(name and fnmatchcase(name, pattern) for name in names)
