"""The benchmark around the race: what is measured, on which inputs, and what it says about itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import Save

import onnx_condense as oc
from onnx_condense.model.inputs import make_feeds
from onnx_condense.model.runtime import CPU
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.specs import model_specs
from onnx_condense.progress import Progress, Step
from onnx_condense.timing import footprint as memory
from onnx_condense.timing.benchmark import Benchmark, Instruments, Pace, measure
from onnx_condense.timing.footprint import Footprint, footprint
from onnx_condense.timing.load import Load, Reading, now
from onnx_condense.timing.profile import KERNEL, profile, summarize
from onnx_condense.timing.race import Race
from onnx_condense.timing.setup import Setup

MODEL = builders.mlp((8, 16, 3))


TAKEN = Footprint(0.5, 1000)


@dataclass
class Script:
    """Instruments that say what they are told.

    rows: seconds [m, b] of every block. busy: cores that others use. taken: of every model. races: the feeds of each.
    """

    rows: Any = field(default_factory=lambda: np.full((2, 12), 0.001))
    busy: float = 0.0
    taken: Footprint | None = TAKEN
    cores: int = 2
    races: list[Any] = field(default_factory=list)

    def race(self, models: Any, feeds: Any, threads: int, pace: Pace, provider: str) -> Race:
        self.races.append(feeds)
        assert pace.told is not None
        pace.told(3, 24)
        rows = self.rows[: len(models)]
        return Race(tuple(rows), rows, rows / rows[:1])

    def load(self) -> Load:
        return Load(readings((0.0, 0.0, 0.0), (1.0, self.busy, 0.0)))

    def measured(self, *models: Any, progress: Progress | None = None, **setup: Any) -> Benchmark:
        instruments = Instruments(self.race, lambda *_: self.taken, load=self.load, cores=self.cores)
        return measure(models, Setup(**setup), progress, instruments)


def readings(*values: Reading) -> Callable[[], Reading]:
    """A clock that reads these values, one after the other."""
    return iter(values).__next__


def race_rows(first: float, *ratios: float, spread: float = 0.0) -> Any:
    """Blocks of 12 latencies; ratios spread evenly by ± spread."""
    factors = np.linspace(1 - spread, 1 + spread, 12)
    return np.array([np.full(12, first), *(first * ratio * factors for ratio in ratios)])


def test_a_real_race_of_a_model_and_its_copy(save: Save) -> None:
    found = oc.benchmark(save(MODEL), MODEL, seconds=0.3, threads=1, batches=(1, 8), with_profile=True)
    assert [batch.batch for batch in found.batches] == [1, 8]
    for batch in found.batches:
        assert batch.shapes == {"x": (batch.batch, 8)}
        for model in batch.models:
            assert 0 < model.median <= model.p90 <= model.p99
            assert model.runs > 100
            assert model.load_seconds is not None
            assert model.load_seconds > 0
            assert model.peak_memory is not None
            assert model.peak_memory < 1e9
        first, copy = batch.models
        assert (first.ratio, first.verdict) == (1.0, None)
        assert copy.ratio_low <= copy.ratio <= copy.ratio_high
        assert all("Gemm" in profile.operators for profile in batch.profiles)
    json.dumps(found.to_json(), allow_nan=False)


def test_stages_are_logged_and_races_say_how_far_they_are(caplog: pytest.LogCaptureFixture) -> None:
    found: list[str] = []
    with caplog.at_level(logging.DEBUG, "onnx_condense"):
        Script().measured(MODEL, MODEL, batches=(4,), progress=found.append)
    assert found == [record.getMessage() for record in caplog.records]
    (step,) = (stage for stage in found if isinstance(stage, Step))
    assert (step, step.done, step.total) == ("batch 4: latency, block 3/24: at most 10 s", 2, 24)


def test_numbers_are_what_was_measured() -> None:
    script = Script(race_rows(0.002, 0.5))
    script.rows[1, -1] = 0.01
    (batch,) = script.measured(MODEL, MODEL, batches=(4,)).batches
    first, second = batch.models
    assert (first.median, first.p90, first.throughput) == pytest.approx((0.002, 0.002, 4 / 0.002))
    assert second.p99 == pytest.approx(0.01, rel=0.2)
    assert second.throughput == pytest.approx(4 * 12 / (11 * 0.001 + 0.01))
    assert (second.ratio, second.verdict) == (pytest.approx(0.5), "faster")
    assert (second.load_seconds, second.peak_memory, second.runs) == (0.5, 1000, 12)


@pytest.mark.parametrize(
    ("ratio", "spread", "verdict", "stable"),
    [
        (1.0, 0.0, "no measurable difference", True),
        (1.1, 0.02, "slower", True),
        (0.9, 0.02, "faster", True),
        (1.0, 0.3, "no measurable difference", False),
        (3.0, 0.3, "slower", True),
        (3.0, 0.9, "slower", False),
    ],
)
def test_wide_intervals_are_no_result(ratio: float, spread: float, verdict: str, stable: bool) -> None:
    found = Script(race_rows(0.001, ratio, spread=spread)).measured(MODEL, MODEL)
    row = found.batches[0].models[1]
    assert (row.verdict, row.stable) == (verdict, stable)
    assert [("too unstable" in w and "model 2" in w) for w in found.warnings] == ([] if stable else [True])


@pytest.mark.parametrize(
    ("threads", "busy", "warned"), [(0, 0.1, False), (0, 0.5, True), (1, 0.5, False), (1, 1.2, True), (2, 0.3, True)]
)
def test_busy_cores_are_said(threads: int, busy: float, warned: bool) -> None:
    found = Script(busy=busy).measured(MODEL, threads=threads)
    assert [("cores are busy" in w) for w in found.warnings] == [True] * warned
    assert found.batches[0].busy == busy


def test_others_are_everything_but_this_process() -> None:
    assert Load(readings((10.0, 100.0, 50.0), (14.0, 106.0, 52.0))).others() == 1.0


def test_own_work_does_not_count_as_others() -> None:
    before = now()
    sum(i * i for i in range(10**6))
    after = now()
    assert after[2] > before[2]


# ---------------------------------------------------------------------- inputs


def test_batches_fill_the_symbolic_axis() -> None:
    script = Script()
    script.measured(MODEL, batches=(1, 8, 64))
    assert [feeds[0]["x"].shape for feeds in script.races] == [(1, 8), (8, 8), (64, 8)]


def test_one_sample_unless_the_model_says_otherwise() -> None:
    assert Script().measured(MODEL).batches[0].batch == 1
    assert Script().measured(builders.mlp((8, 16, 3), batch="5")).batches[0].batch == 5
    assert Script().measured(MODEL, input_shape={"x": (6, 8)}).batches[0].batch == 6


def test_data_is_cut_into_batches() -> None:
    data = np.arange(160, dtype=np.float32).reshape(20, 8)
    script = Script()
    script.measured(MODEL, batches=(8,), data={"x": data})
    (feeds,) = script.races
    assert [feed["x"].tolist() for feed in feeds] == [data[:8].tolist(), data[8:16].tolist()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batches": (8,), "input_shape": {"x": (4, 8)}}, "--batch 8"),
        ({"batches": (0,)}, "--batch"),
        ({"threads": -1}, "--threads"),
        ({"seconds": 0.0}, "--seconds"),
        ({"seconds": float("nan")}, "--seconds"),
        ({"provider": "NoSuchExecutionProvider"}, CPU),
        ({"input_shape": {"z": (4, 8)}}, "inputs are x"),
    ],
    ids=str,
)
def test_options_that_do_not_work(options: dict[str, Any], words: str) -> None:
    with pytest.raises(oc.UsageError, match=words):
        oc.benchmark(MODEL, **options)


def test_a_fixed_batch_is_not_another() -> None:
    fixed = builders.mlp((8, 16, 3), batch="2")
    with pytest.raises(oc.UsageError, match="batch of 2"):
        oc.benchmark(fixed, batches=(8,))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_onnxruntime_does_not_take_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime falls back to the CPU in silence where a provider's libraries do not load."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(oc.InputError, match="CUDA"):
        oc.benchmark(MODEL, provider="CUDAExecutionProvider")


def test_models_must_take_the_same_inputs() -> None:
    renamed = builders.build("g (float[N, 8] z) => (float[N, 8] y) { y = Relu(z) }")
    with pytest.raises(oc.InputError, match="model 2 takes the inputs z"):
        oc.benchmark(MODEL, renamed)
    with pytest.raises(oc.InputError, match="model 2"):
        oc.benchmark(MODEL, builders.mlp((9, 16, 3)))
    with pytest.raises(oc.UsageError, match="no model"):
        oc.benchmark()


# ---------------------------------------------------------------------- load time and memory


def feeds_of(model: onnx.ModelProto) -> Any:
    return make_feeds(model, model_specs(model, import_graph(model)), None, {}, 0)


def test_memory_is_what_the_model_adds(save: Save) -> None:
    """Not what the process that asks already holds, although a forked child's ru_maxrss starts there."""
    text = "g (float[N, 8] x) => (float[N, 2000000] y) { y = MatMul(x, w) }"
    small, large = save(MODEL), save(builders.build(text, {"w": np.ones((8, 2000000), np.float32)}), "large.onnx")
    held = np.ones(60_000_000)
    found = [footprint(path, [{"x": builders.random(8, 8)}], 1, CPU) for path in (small, large)]
    assert held.nbytes == 480e6
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].peak_memory is not None
    assert found[1].peak_memory is not None
    assert found[0].peak_memory < 40e6
    assert 64e6 < found[1].peak_memory < 400e6
    assert found[0].load_seconds < found[1].load_seconds


def test_a_process_that_dies_is_said() -> None:
    assert footprint(Path("missing.onnx"), feeds_of(MODEL), 1, CPU) is None
    found = Script(taken=None).measured(MODEL)
    assert found.batches[0].models[0].peak_memory is None
    assert "memory" in found.warnings[0]


def test_the_footprint_in_this_process(save: Save) -> None:
    found = memory.measure_here(save(MODEL), feeds_of(MODEL)[0], 1, CPU)
    assert 0 < found.load_seconds < 60
    assert found.peak_memory is None or found.peak_memory >= 0


# ---------------------------------------------------------------------- profiles


def event(name: str, kind: str, microseconds: int) -> dict[str, Any]:
    return {"cat": "Node", "name": name + KERNEL, "dur": microseconds, "args": {"op_name": kind}}


def test_profiles_are_medians_per_run_without_the_first() -> None:
    events = [event("a", "Conv", 900), event("b", "Relu", 90)]
    for conv in (10, 12, 500):
        events += [event("a", "Conv", conv), event("b", "Relu", 1), {"cat": "Session", "name": "model_run", "dur": 9}]
    found = summarize(events, 4)
    assert found.nodes["a"].seconds == pytest.approx(12e-6)
    assert list(found.operators) == ["Conv", "Relu"]
    assert found.operators["Relu"] == pytest.approx(1e-6)


def test_nodes_that_run_several_times_or_not_always() -> None:
    events = [event("loop", "Add", 5)] * 6 + [event("branch", "Mul", 8)] * 2
    found = summarize(events, 3)
    assert found.nodes["loop"].seconds == pytest.approx(10e-6)
    assert found.nodes["branch"].seconds == pytest.approx(16e-6 / 3)


def test_a_real_profile(save: Save) -> None:
    model = builders.convnet((3, 8, 8), batch="2")
    found = profile(save(model), feeds_of(model), threads=1)
    assert {"Conv", "Gemm"} <= found.operators.keys()
    assert sum(found.operators.values()) == pytest.approx(sum(n.seconds for n in found.nodes.values()))
