"""How fast models are in onnxruntime, against each other, and whether that can be told at all."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil

from onnx_condense.arrays import Array
from onnx_condense.documents import finite, head
from onnx_condense.errors import InputError, UsageError
from onnx_condense.model.blame import blamed
from onnx_condense.model.files import Model, Source, file_of, load
from onnx_condense.model.inputs import Feed, InputSpec, Shapes, make_feeds
from onnx_condense.model.runtime import CPU, deployed, run
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.specs import model_specs
from onnx_condense.progress import Step
from onnx_condense.timing.footprint import Footprint, footprint
from onnx_condense.timing.load import Load, allowed
from onnx_condense.timing.profile import Profile, profile
from onnx_condense.timing.race import UNSTABLE, Race, Runner, Told, Verdict, race
from onnx_condense.timing.setup import SECONDS, Setup

_log = logging.getLogger(__name__)

VERSION = 1

FINE = 1e-6
"""Seconds that a clock must tell apart."""


@dataclass(frozen=True)
class ModelLatency:
    """One model at one batch size.

    Attributes:
        model: its path, or its position where it came from memory.
        median, p90, p99: seconds per run. low, high: 95 % interval of the median.
        throughput: samples per second. runs: how many were timed.
        load_seconds, peak_memory: see Footprint; None where they could not be measured.
        ratio: latency divided by the first model's, paired by round. ratio_low, ratio_high: its 95 % interval.
        verdict: of the ratio; None for the first model.
        stable: whether this is a result: not so where time ran out while the interval was wide.
    """

    model: str
    median: float
    low: float
    high: float
    p90: float
    p99: float
    throughput: float
    runs: int
    load_seconds: float | None
    peak_memory: int | None
    ratio: float
    ratio_low: float
    ratio_high: float
    verdict: Verdict | None
    stable: bool


@dataclass(frozen=True)
class BatchLatency:
    """All models at one batch size.

    batch: samples per run. shapes: of the inputs. busy: cores that other processes kept busy. profiles: one per model,
    where asked for.
    """

    batch: int
    shapes: Mapping[str, tuple[int, ...]]
    models: tuple[ModelLatency, ...]
    busy: float
    profiles: tuple[Profile, ...]


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` returns; `to_json` is the stable form. Times are seconds, memory is bytes."""

    batches: tuple[BatchLatency, ...]
    threads: int
    provider: str
    cores: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The measurement as a JSON object, with the versions and the machine; numbers that are not finite are null."""
        document = head("benchmark", VERSION)
        document["host"] |= {"machine": platform.machine(), "system": platform.system()}
        result: dict[str, Any] = finite(document | asdict(self))
        return result


@dataclass(frozen=True)
class _Contestant:
    """A model that takes part."""

    name: str
    source: Source
    file: Path


def benchmark(
    *models: Model,
    threads: int = 0,
    batches: Sequence[int] = (),
    input_shape: Shapes | None = None,
    provider: str = CPU,
    data: str | os.PathLike[str] | Mapping[str, Array] | None = None,
    seconds: float = SECONDS,
    seed: int = 0,
    with_profile: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Measures models in interleaved rounds; all but the first are compared with the first.

    Args:
        models: paths, or models in memory; all take the same inputs.
        threads: of one operator; 0 leaves it to onnxruntime (all cores).
        batches: sizes of a symbolic first axis; empty: 1, or what the model states.
        input_shape: sizes for symbolic dimensions.
        provider: onnxruntime's execution provider.
        data: as `Options.data`: a path, or arrays [samples, ...] by input name; None generates inputs.
        seconds: time limit per batch size; a measurement that is narrow enough ends earlier.
        seed: of generated inputs and of the order.
        with_profile: also record the time per operator type and node.
        progress: called with the name of each stage.

    Raises:
        InputError: a model or the data cannot be used, or the models take different inputs.
        UsageError: an option is out of range, or the model has no symbolic batch axis.
    """
    if not models:
        raise UsageError("no model to measure: name one")
    setup = Setup(threads, tuple(batches), provider, seconds, with_profile, data, input_shape or {}, seed)
    return measure(models, setup, progress)


def measure(
    models: Sequence[Model],
    setup: Setup,
    progress: Callable[[str], None] | None = None,
    instruments: Instruments | None = None,
) -> Benchmark:
    """As `benchmark`, with other instruments where they are given. Raises UsageError and InputError as that does."""
    available = onnxruntime.get_available_providers()
    if setup.provider not in available:
        raise UsageError(f"--provider {setup.provider} is not in this onnxruntime: it has {', '.join(available)}")
    instruments = instruments or Instruments()
    found, warnings = [], []

    def note(stage: str) -> None:
        _log.debug("%s", stage)
        if progress is not None:
            progress(stage)

    with tempfile.TemporaryDirectory() as folder:
        entered = [_enter(model, number, Path(folder)) for number, model in enumerate(models, 1)]
        for wanted in setup.batches or (None,):
            note("inputs")
            feeds = latency_feeds(entered[0].source.proto, wanted, setup.data, setup.input_shape, setup.seed)
            _check_runs(entered, feeds, setup)
            found.append(_batch(entered, feeds, setup, instruments, note))
            warnings += _warnings(found[-1], setup.threads, instruments.cores)
    return Benchmark(tuple(found), setup.threads, setup.provider, instruments.cores, tuple(warnings))


def _batch(
    entered: Sequence[_Contestant],
    feeds: Sequence[Feed],
    setup: Setup,
    instruments: Instruments,
    progress: Callable[[str], None],
) -> BatchLatency:
    """Everything about one batch size."""
    batch, files = batch_of(feeds[0]), [contestant.file for contestant in entered]
    threads, provider = setup.threads, setup.provider
    progress(f"batch {batch}: load time and memory")
    footprints = [instruments.footprint(file, feeds, threads, provider) for file in files]
    at_most = f"at most {setup.seconds:g} s"

    def told(block: int, blocks: int) -> None:
        progress(Step(f"batch {batch}: latency, block", block, blocks, at_most))

    load = instruments.load()
    measured = instruments.race(files, feeds, threads, Pace(setup.seconds, setup.seed, told=told), provider)
    busy = load.others()
    if setup.with_profile:
        progress(f"batch {batch}: profile")
    profiles = [instruments.profile(file, feeds, threads, provider) for file in files if setup.with_profile]
    rows = [_row(c.name, measured, n, batch, footprints[n]) for n, c in enumerate(entered)]
    shapes = {name: tuple(array.shape) for name, array in feeds[0].items()}
    return BatchLatency(batch, shapes, tuple(rows), busy, tuple(profiles))


@dataclass(frozen=True)
class Pace:
    """How long a race may last, the seed of the order within rounds, its clock, and who is told how far it is."""

    seconds: float = SECONDS
    seed: int = 0
    clock: Callable[[], float] = time.perf_counter
    told: Told | None = None


def compare_latency(
    models: Sequence[Path | bytes],
    feeds: Sequence[Feed],
    threads: int = 0,
    pace: Pace | None = None,
    provider: str = CPU,
) -> Race:
    """Races models on the feeds. Raises InputError where one does not run."""
    pace = pace or Pace()

    def make(model: Path | bytes) -> Runner:
        active = deployed(model, threads=threads, provider=provider)
        run(active, None, feeds[0])
        return lambda number: active.run(None, feeds[number % len(feeds)])

    loaders = [partial(make, model) for model in models]
    return race(loaders, pace.seconds, seed=pace.seed, clock=pace.clock, told=pace.told)


def clock_of(threads: int) -> Callable[[], float]:
    """What tells how long runs take: with one thread its own time, in which busy others do not count.

    Where the system tells that finely enough.
    """
    fine = time.get_clock_info("thread_time").resolution <= FINE
    return time.thread_time if threads == 1 and fine else time.perf_counter


@dataclass(frozen=True)
class Instruments:
    """What measures: whatever takes and gives the same may stand in for it. cores: of this machine."""

    race: Callable[[Sequence[Path], Sequence[Feed], int, Pace, str], Race] = compare_latency
    footprint: Callable[[Path, Sequence[Feed], int, str], Footprint | None] = footprint
    profile: Callable[[Path, Sequence[Feed], int, str], Profile] = profile
    load: Callable[[], Load] = Load
    cores: int = psutil.cpu_count() or 1


def latency_feeds(
    model: onnx.ModelProto,
    batch: int | None,
    data: str | os.PathLike[str] | Mapping[str, Array] | None,
    input_shape: Shapes,
    seed: int,
) -> list[Feed]:
    """The inputs [batch, ...] of a measurement: `make_feeds` with a symbolic first axis of that size (None: 1).

    Raises UsageError where the model has another batch size, and InputError as `make_feeds` does.
    """
    with blamed(model, "the model"):
        specs = model_specs(model, import_graph(model))
    free = [s.name for s in specs if s.dims and isinstance(s.dims[0], str) and s.name not in input_shape]
    if batch is not None and not free:
        stated = next((s for s in specs if s.dims), None)
        size = input_shape.get(stated.name, stated.dims)[0] if stated else 1
        if size != batch:
            name = stated.name if stated else "the model"
            raise UsageError(f"--batch {batch}: {name} has a batch of {size}: drop --batch, or export a symbolic axis")
    sized = [_with_batch(spec, batch or 1) if spec.name in free else spec for spec in specs]
    return make_feeds(model, sized, data, input_shape, seed)


def _with_batch(spec: InputSpec, batch: int) -> InputSpec:
    return replace(spec, dims=(batch, *spec.dims[1:]))


def batch_of(feed: Feed) -> int:
    """Samples in a feed: the first axis of the first input that has one."""
    return next((len(array) for array in feed.values() if array.ndim), 1)


def _enter(model: Model, number: int, folder: Path) -> _Contestant:
    """Loads a model; one from memory becomes a file, since load time is measured from one."""
    source = load(model)
    name = f"model {number}" if source.path is None else str(source.path)
    return _Contestant(name, source, file_of(source, folder, f"{number}.onnx"))


def _check_runs(entered: Sequence[_Contestant], feeds: Sequence[Feed], setup: Setup) -> None:
    """Raises InputError where a model does not take the first one's inputs."""
    provider = setup.provider
    for contestant in entered:
        active = deployed(contestant.file, threads=setup.threads, provider=provider)
        if provider not in active.get_providers():
            raise InputError(f"{contestant.name} does not run on {provider}, onnxruntime chose another one: drop it")
        names = {value.name for value in active.get_inputs()}
        if names != feeds[0].keys():
            raise InputError(
                f"{contestant.name} takes the inputs {', '.join(sorted(names)) or 'none'}, {entered[0].name} takes "
                f"{', '.join(sorted(feeds[0])) or 'none'}: only models with the same inputs can be compared"
            )
        try:
            run(active, None, feeds[0])
        except InputError as error:
            raise InputError(f"{contestant.name}: {error}") from error


def _row(name: str, measured: Race, number: int, batch: int, taken: Footprint | None) -> ModelLatency:
    seconds, latency = measured.seconds[number], measured.latency(number)
    ratio = measured.ratio(number)
    median, p90, p99 = (float(value) for value in np.percentile(seconds, (50, 90, 99)))
    return ModelLatency(
        model=name,
        median=median,
        low=latency.low,
        high=latency.high,
        p90=p90,
        p99=p99,
        throughput=batch * len(seconds) / float(seconds.sum()),
        runs=len(seconds),
        load_seconds=taken.load_seconds if taken else None,
        peak_memory=taken.peak_memory if taken else None,
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        verdict=ratio.verdict if number else None,
        stable=ratio.stable if number else latency.width <= UNSTABLE,
    )


def _warnings(found: BatchLatency, threads: int, cores: int) -> list[str]:
    at = f"at batch {found.batch}"
    result = [
        f"{m.model} {at} is too unstable to be a result: quiet the machine or raise --seconds"
        for m in found.models
        if not m.stable
    ]
    if any(m.load_seconds is None for m in found.models):
        result.append(f"load time and memory {at} are missing: the process that measures them died (out of memory?)")
    if found.busy > allowed(cores, threads):
        result.append(f"the cores are busy: other processes used {found.busy:.1f} of {cores} {at}")
    return result
