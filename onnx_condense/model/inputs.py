"""Verification inputs: from the user's data, or generated, signed and seeded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import onnx
from onnx.helper import tensor_dtype_to_np_dtype

from onnx_condense.arrays import Array
from onnx_condense.data.reading import Given, read
from onnx_condense.errors import InputError, UsageError
from onnx_condense.model.advice import advice
from onnx_condense.model.draws import DRAWS, NORMAL, Draw
from onnx_condense.model.expressions import UNSAID, Expression, expressions
from onnx_condense.model.outputs import LABELS, Outputs, arrays, finite, share_told
from onnx_condense.model.trial import Trial
from onnx_condense.trust import INPUTS, takes_in

Feed = dict[str, Array]
Inputs = str | os.PathLike[str] | Mapping[str, Array]
"""A path, loader.py:function, or arrays by input name: samples on axis 0."""

Shapes = Mapping[str, tuple[int, ...]]

SAMPLES = 16
"""Samples in one feed of a model with a symbolic batch axis; feeds of a model with a fixed one are at most half."""

ELEMENTS = 2**18
"""Numbers that generated inputs hold at most, so that image models are not run many times."""

COUNTED = 256
"""Labels of an output that are to be seen where no output is a tensor of floats (what changes is a share of them), and
samples where other inputs than the usual ones are drawn."""

FLOAT_TENSORS = tuple(f"tensor({kind})" for kind in ("float", "double", "float16", "bfloat16"))
"""Types of outputs, as onnxruntime names them."""

SIZES = (64, 32, 224, 16, 128, 256, 8, 4, 1)
"""Sizes tried, in this order, for symbolic dimensions other than the batch."""

SUMMED = 8
"""Size tried for two of at least three symbolic dimensions where another one may be their sum."""

MOST = 2**28
"""Numbers of one generated input at most: a gigabyte of float32."""

LARGEST = 2**20
"""Largest size that the name of a dimension may lead to."""


@dataclass(frozen=True)
class InputSpec:
    """One graph input: its dims are numbers, names of symbolic dimensions, or "" where nothing is said."""

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | str, ...]
    vocabulary: int | None = None
    draw: Draw = NORMAL

    def with_sizes(self, sizes: Mapping[int, int]) -> InputSpec:
        """The spec with sizes filled in for symbolic dims (axis -> size)."""
        rank = len(self.dims)
        known = {axis % rank: size for axis, size in sizes.items() if -rank <= axis < rank}
        dims = tuple(known.get(i, d) if isinstance(d, str) and i else d for i, d in enumerate(self.dims))
        return replace(self, dims=dims)

    def shape(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        """Its sizes where symbolic ones are those."""
        return tuple(size if isinstance(size, int) else symbols[size] for size in self.dims)


def with_draw(specs: Sequence[InputSpec], draw: Draw) -> list[InputSpec]:
    """The specs with another manner of drawing them."""
    return [replace(spec, draw=draw) for spec in specs]


def input_specs(model: onnx.ModelProto, vocabularies: Mapping[str, int] | None = None) -> list[InputSpec]:
    """The inputs that a caller must feed. Raises InputError for what is no tensor of numbers.

    `vocabularies` names, for an integer input, how many rows the table has that it indexes.
    """
    known = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    specs = []
    for value in model.graph.input:
        if value.name in known:
            continue
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type in (0, onnx.TensorProto.STRING):
            raise InputError(f"input {value.name} is not a tensor of numbers: such models are not supported")
        dims = tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param for d in kind.shape.dim
        )
        dtype = np.dtype(tensor_dtype_to_np_dtype(kind.elem_type))
        specs.append(InputSpec(value.name, dtype, dims, (vocabularies or {}).get(value.name)))
    return specs


@dataclass(frozen=True, eq=False)
class Drawn:
    """The feeds that a model is verified on.

    told: whether outputs on generated feeds are finite and change with them; None for given ones. draw: their manner.
    """

    feeds: list[Feed]
    told: bool | None = None
    draw: Draw = NORMAL


def draw_feeds(
    model: onnx.ModelProto | Trial,
    specs: list[InputSpec],
    data: Inputs | None,
    input_shape: Shapes,
    seed: int,
    draws: Sequence[Draw] = DRAWS,
) -> Drawn:
    """The feeds that a model is verified on: given, or generated. Raises UsageError or InputError with what to do.

    draws: the manners in which they may be generated, that which is tried first before the others.
    """
    specs = sized(specs, input_shape)
    if data is not None:
        return Drawn(read_feeds(specs, data))
    return _generate(model if isinstance(model, Trial) else Trial(model), with_draw(specs, draws[0]), seed, draws)


def make_feeds(
    model: onnx.ModelProto, specs: list[InputSpec], data: Inputs | None, input_shape: Shapes, seed: int
) -> list[Feed]:
    """The feeds of `draw_feeds`."""
    return draw_feeds(model, specs, data, input_shape, seed).feeds


def sized(specs: Sequence[InputSpec], input_shape: Shapes) -> list[InputSpec]:
    """The specs with the sizes that a user gives. Raises UsageError where they do not fit."""
    unknown = set(input_shape) - {spec.name for spec in specs}
    if unknown:
        raise UsageError(f"--input-shape names {sorted(unknown)[0]}, the inputs are {_names(specs)}")
    return [_fill(spec, input_shape[spec.name]) if spec.name in input_shape else spec for spec in specs]


def read_feeds(specs: Sequence[InputSpec], data: Given) -> list[Feed]:
    """Samples of a path, or of arrays, in feeds of the batch size that the model wants. Raises InputError."""
    feeds: list[Feed] = []
    for batch in read(specs, data):
        arrays = {spec.name: _converted(spec, batch.arrays[spec.name], batch.source) for spec in specs}
        feeds += _split(specs, arrays)
    return feeds


def _names(specs: Sequence[InputSpec]) -> str:
    return ", ".join(spec.name for spec in specs) or "none"


def _fill(spec: InputSpec, shape: tuple[int, ...]) -> InputSpec:
    given = "x".join(map(str, shape))
    if spec.dims and len(shape) != len(spec.dims):
        raise UsageError(
            f"--input-shape {spec.name}={given} has {len(shape)} dimensions, the model's has {len(spec.dims)}"
        )
    for size, dim in zip(shape, spec.dims, strict=False):
        if size < 1 or (isinstance(dim, int) and dim != size):
            raise UsageError(f"--input-shape {spec.name}={given} does not fit the model's {_text(spec)}")
    return InputSpec(spec.name, spec.dtype, tuple(shape), spec.vocabulary)


def _text(spec: InputSpec) -> str:
    return "x".join(str(d or "?") for d in spec.dims) or "scalar"


def _converted(spec: InputSpec, given: Array, source: str) -> Array:
    """An array [samples, ...] in an input's type. Raises InputError for what is no number, or not finite in it.

    A file that numpy writes knows no short floats (bfloat16): it gives back their bytes.
    """
    if given.dtype.type is np.void and spec.dtype.kind == "V" and given.dtype == f"V{spec.dtype.itemsize}":
        given = given.view(spec.dtype)
    if given.dtype.kind not in "fiubV" or given.dtype.type is np.void:
        raise InputError(f"the data for {spec.name} is not numbers: pass an array of {spec.dtype.name}")
    _check_finite(spec, given, source)
    with np.errstate(over="ignore"):
        array = given.astype(spec.dtype, copy=False)
    if array is not given:
        _check_finite(spec, array, source)
    return array


def _check_finite(spec: InputSpec, array: Array, source: str) -> None:
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return
    finite_ones = np.isfinite(array)
    if finite_ones.all():
        return
    samples = (~finite_ones).reshape(len(array) if array.ndim else 1, -1).any(axis=1)
    first, count = int(samples.argmax()), int(samples.sum())
    what = "NaN" if np.isnan(array[first] if array.ndim else array).any() else f"a number that {array.dtype} lacks"
    more = f" ({count} such samples)" if count > 1 else ""
    raise InputError(f"{source} holds {what} in sample {first} of {spec.name}{more}: mend it, or leave it out")


def _split(specs: Sequence[InputSpec], arrays: dict[str, Array]) -> list[Feed]:
    """Cuts samples on axis 0 into feeds of the batch size that the model wants, where it is tied to no other size."""
    counts, whole = set(), tied(specs) or _uneven(specs, arrays)
    for spec in specs:
        array, rank = arrays[spec.name], len(spec.dims)
        if array.ndim == rank + 1 or (rank and array.ndim == rank):
            fits = zip(
                array.shape[array.ndim - rank + (array.ndim == rank) :], spec.dims[(array.ndim == rank) :], strict=True
            )
            if all(isinstance(dim, str) or dim == size for size, dim in fits):
                counts.add(_samples(spec, array, whole))
                continue
        raise InputError(
            f"data for {spec.name} has shape {'x'.join(map(str, array.shape))}, "
            f"the model wants {_text(spec)} with samples on axis 0"
        )
    if 0 in counts:
        raise InputError(
            f"the data holds fewer samples than one batch of the model (inputs {_names(specs)}): add samples"
        )
    if len(counts) != 1:
        raise InputError(f"the arrays for {_names(specs)} hold different numbers of samples: make them equal")
    feeds = []
    for index in range(counts.pop()):
        feeds.append({spec.name: _chunk(spec, arrays[spec.name], index, whole) for spec in specs})
    return feeds


def tied(specs: Sequence[InputSpec]) -> bool:
    """Whether another axis is as long as the first one of an input: no samples lie on that."""
    firsts = {spec.dims[0] for spec in specs if spec.dims and str(spec.dims[0]).lower() not in UNSAID}
    others = {word for spec in specs for dim in spec.dims[1:] for word in re.findall(r"\w+", str(dim))}
    return bool(firsts & others)


def _uneven(specs: Sequence[InputSpec], arrays: Mapping[str, Array]) -> bool:
    """Whether symbols on first axes are of several sizes."""
    firsts = {s.dims[0]: len(arrays[s.name]) for s in specs if s.dims and arrays[s.name].ndim == len(s.dims)}
    return len({size for symbol, size in firsts.items() if isinstance(symbol, str)}) > 1


def _batch(spec: InputSpec, array: Array, whole: bool) -> int:
    return spec.dims[0] if isinstance(spec.dims[0], int) else len(array) if whole else 4 * SAMPLES


def _samples(spec: InputSpec, array: Array, whole: bool) -> int:
    """How many feeds an array makes; a last one that is too short for a fixed batch is left out."""
    if array.ndim > len(spec.dims) or not len(array):
        return len(array)
    fixed, size = isinstance(spec.dims[0], int), _batch(spec, array, whole)
    return len(array) // size if fixed else -(-len(array) // size)


def _chunk(spec: InputSpec, array: Array, index: int, whole: bool) -> Array:
    if array.ndim > len(spec.dims):
        return np.asarray(array[index])
    size = _batch(spec, array, whole)
    return array[index * size : (index + 1) * size]


def _generate(runner: Trial, specs: list[InputSpec], seed: int, draws: Sequence[Draw]) -> Drawn:
    """Floats as drawn first, integers within their vocabulary. Symbolic sizes are tried until onnxruntime runs."""
    per_sample = max(1, sum(prod(d for d in spec.dims if isinstance(d, int)) for spec in specs))
    room = max(1, ELEMENTS // per_sample)
    last: InputError | None = None
    runner.load()
    for symbols, batch in _sizes_tried(specs, max(2, min(SAMPLES, room))):
        try:
            found = _outputs(runner, random_feed(specs, symbols, seed), inside=True)
        except InputError as error:
            last = last or error
            continue
        feeds = min(SAMPLES // 2, room) if batch is None else 1
        draw, told = _Telling(runner, specs, symbols, seed).best(draws, found)
        seen = (batch or 1) * feeds if draw != draws[0] else feeds * _fewest_labels(runner, found)
        feeds *= min(-(-COUNTED // seen), max(1, room // ((batch or 1) * feeds)))
        drawn = with_draw(specs, draw)
        made = [random_feed(drawn, symbols, seed + index) for index in range(feeds)]
        takes_in(sum(array.nbytes for feed in made for array in feed.values()))
        if draw != draws[0]:
            runner(made[0])
        return Drawn(made, told, draw)
    sizes = [symbols for symbols, _ in _sizes_tried(specs, SAMPLES)]
    raise InputError(f"no generated inputs run ({last}): {advice(runner, specs, sizes)}") from last


def _sizes_tried(specs: list[InputSpec], most: int) -> Iterator[tuple[dict[str, int], int | None]]:
    """Sizes by symbol, and how many samples they make of one feed (None where no axis is a batch)."""
    others = _inner_symbols(specs)
    firsts = {spec.dims[0] for spec in specs if spec.dims and isinstance(spec.dims[0], str)} - set(others)
    bound = expressions({*others, *firsts} - {""})
    batches: tuple[int | None, ...] = (most, 1) if firsts - bound.keys() else (None,)
    for sizes in _assignments(others, bound):
        for batch in batches:
            symbols = dict.fromkeys(firsts, batch or 1) | sizes
            symbols |= {name: expression.at(symbols) for name, expression in bound.items() if name not in sizes}
            if all(0 < size <= LARGEST for size in symbols.values()):
                yield symbols, batch


def _inner_symbols(specs: list[InputSpec]) -> list[str]:
    """Names of the sizes of other axes than the first, and "" where one has none."""
    named = [(axis, size) for spec in specs for axis, size in enumerate(spec.dims) if isinstance(size, str)]
    return sorted({size for axis, size in named if axis or not size})


def _outputs(runner: Trial, feed: Feed, inside: bool = False) -> Outputs:
    """What a model makes of a feed; `inside`: the shapes of its tensors are seen, too. Raises InputError."""
    values = runner(feed, inside)
    return arrays(runner.types, values)


@dataclass(frozen=True, eq=False)
class _Telling:
    """Whether the outputs follow generated inputs of these specs and sizes."""

    runner: Trial
    specs: list[InputSpec]
    symbols: Mapping[str, int]
    seed: int

    def best(self, draws: Sequence[Draw], found: Outputs) -> tuple[Draw, bool]:
        """The first draw where it moves the outputs, else the one that moves most of them; and whether it does.

        `found`: outputs on the first feed of the first draw.
        """
        if not self.specs:
            return draws[0], finite(found)
        if self._share(draws[0], found) > 0:
            return draws[0], True
        shares = {draw: self._share(draw) for draw in draws}
        best = max(draws, key=lambda draw: shares[draw])
        return best, shares[best] > 0

    def _share(self, draw: Draw, first: Outputs | None = None) -> float:
        drawn = with_draw(self.specs, draw)
        try:
            first = first or _outputs(self.runner, random_feed(drawn, self.symbols, self.seed))
            return share_told(first, _outputs(self.runner, random_feed(drawn, self.symbols, self.seed + 1)))
        except InputError:
            return 0.0


def _fewest_labels(runner: Trial, found: Outputs) -> int:
    """Labels of the output that has fewest; where the model gives a tensor of floats, as many as are to be seen."""
    if any(kind in FLOAT_TENSORS for kind in runner.types.values()):
        return COUNTED
    return min((value.size for value in found.values() if value.dtype.kind in LABELS and value.size), default=COUNTED)


def _assignments(names: list[str], bound: Mapping[str, Expression]) -> Iterator[dict[str, int]]:
    """Sizes by name; first those of the free names alone, where others follow from them by what they are called."""
    if bound:
        free = [name for name in names if name not in bound]
        yield from (dict(zip(free, sizes, strict=True)) for sizes in _candidates(len(free)))
    yield from (dict(zip(names, sizes, strict=True)) for sizes in _candidates(len(names)))


def _candidates(count: int) -> list[tuple[int, ...]]:
    """Sizes for `count` symbolic dimensions: all equal first, or one the sum of two others, or mixed ones of two.

    Those of 1 come last: it fits where sizes are broadcast, which says little of others.
    """
    equal = [(size,) * count for size in SIZES] if count else [()]
    sums = [tuple(2 * SUMMED if i == place else SUMMED for i in range(count)) for place in range(count)]
    mixed = [c for c in product(SIZES, repeat=count) if c not in equal] if count == 2 else []
    tried = [*equal, *(sums if count > 2 else []), *mixed]
    return sorted(tried, key=lambda sizes: (1 in sizes, len(set(sizes)) > 1 and 1 in sizes))


def random_feed(specs: list[InputSpec], symbols: Mapping[str, int], seed: int) -> Feed:
    """Inputs of these specs, their symbolic dims of these sizes. Raises InputError where they would be too large."""
    generator = np.random.default_rng(seed)
    shapes = {spec.name: spec.shape(symbols) for spec in specs}
    large = next((name for name, shape in shapes.items() if prod(shape) > INPUTS), None)
    if large is not None:
        raise InputError(f"{large} is {'x'.join(map(str, shapes[large]))}, which is too large to be generated")
    return {spec.name: _random(generator, spec, shapes[spec.name]) for spec in specs}


def _random(generator: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> Array:
    if prod(shape) > MOST:
        text = "x".join(map(str, shape))
        raise InputError(f"{spec.name} of {text} has more than {MOST:,} numbers: ask for smaller sizes")
    if spec.dtype.kind in "iu":
        return generator.integers(0, spec.vocabulary or spec.draw.integers, shape).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    return spec.draw.floats(generator, shape).astype(spec.dtype)
