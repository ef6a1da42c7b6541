"""Calibration inputs in shards: read when needed, summed by any workers, the same bytes whoever does it."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from support.apart import FORKS
from support.cli import Cli, Save
from support.networks import images, residual
from support.planted.net import Net
from support.proofs import merged

import onnx_condense as oc
from onnx_condense.merging.twin import Twin
from onnx_condense.model.inputs import InputSpec, read_feeds
from onnx_condense.model.protos import serialize
from onnx_condense.operators.queries import count_parameters
from onnx_condense.options import Options
from onnx_condense.prepare import Clock, open_model
from onnx_condense.refitting import staged, summing
from onnx_condense.refitting.calibrate import Effort, calibrate
from onnx_condense.refitting.comparison import SideBySide
from onnx_condense.refitting.consumer import reading_fewer
from onnx_condense.refitting.samples import Calibration, Shard, cut, dask, divisible, held_back, opened, pieces
from onnx_condense.refitting.summing import measured, readers_of
from onnx_condense.rewriting.writer import write

READ = "onnx_condense.refitting.samples"

SPECS = [InputSpec("x", np.dtype(np.float32), ("batch", 3, 8, 8))]


def files(folder: Path, *counts: int) -> list[Path]:
    """Shards with so many samples each."""
    paths = [folder / f"{number}.npz" for number in range(len(counts))]
    for number, (path, count) in enumerate(zip(paths, counts, strict=True)):
        np.savez(path, x=images(count, number))
    return paths


def condensed(given: Any, executor: Executor | None = None, **options: Any) -> bytes:
    """The small model, by a budget that calibration inputs choose the channels of, and as many as they allow."""
    options = {"budget": ("params", 0.7), "align": 1, **options}
    result = oc.condense(residual(), oc.Options(calibration=given, **options), executor=executor)
    assert {r.source for r in result.plan.refits} == {"calibration"}
    return serialize(result.model)


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(count, mp_context=FORKS) as pool:
        yield pool


@cache
def alone(*counts: int) -> bytes:
    """What comes of shards with so many samples without workers."""
    with TemporaryDirectory() as name:
        return condensed(files(Path(name), *counts))


def test_any_number_of_workers_and_none_make_the_same_bytes(tmp_path: Path) -> None:
    given = files(tmp_path, 30, 7, 40)
    with processes(2) as pool:
        assert condensed(given, pool) == alone(30, 7, 40)
        assert condensed(given, pool, budget=None, threshold=0.8) == condensed(given, budget=None, threshold=0.8)
    with ThreadPoolExecutor(3) as threads:
        assert condensed(given, threads) == alone(30, 7, 40)


def merges(given: Any) -> tuple[Twin, Calibration]:
    """The twin of a plan that was made without calibration inputs, and those."""
    plan = oc.condense(residual(), oc.Options(threshold=0.8, align=1)).plan
    return merged(residual(), plan, oc.Options(calibration=given))


def test_what_does_not_fit_in_memory_is_computed_again(tmp_path: Path) -> None:
    def calibrated(memory: int) -> bytes:
        twin, calibration = merges(files(tmp_path, 30, 70))
        calibrate(twin, calibration, 0, lambda stage: None, Effort(memory=memory))
        assert len(twin.refits) > 1
        assert not len(staged.REMAINS), "nothing is left behind"
        return serialize(write(twin, {}).model)

    assert calibrated(0) == calibrated(100_000) == calibrated(staged.MEMORY)


def test_tensors_are_kept_up_to_a_limit_those_of_other_chains_go_first() -> None:
    left, tensors = staged.Remains(), {"x": np.zeros(5, np.float64)}
    for place in range(3):
        left.put(("old", place, 0), (1, tensors), 100)
    assert len(left) == 2, "40 bytes each"
    left.put(("new", 0, 0), (1, tensors), 100)
    assert len(left) == 1
    assert left.get(("new", 0, 0), (0, {}))[0] == 1
    left.put(("new", 0, 0), (2, {"x": np.zeros(50, np.float64)}), 100)
    assert left.get(("new", 0, 0), (0, {}))[0] == 1, "what does not fit leaves what was there to go on from"
    left.forget("new")
    assert not len(left)
    assert left.get(("new", 0, 0), (0, {})) == (0, {})


def test_no_node_runs_twice() -> None:
    """The segments of a chain are disjoint, and hold only the weights that they use."""
    twin, _ = merges({"x": images(20, 1)})
    with SideBySide(twin, 0) as sides:
        jobs = [sides.comparison(consumer, None, 1) for consumer in reading_fewer(twin)]
    model = residual()
    for chain in (jobs[-1].before, jobs[-1].after):
        graphs = [onnx.ModelProto.FromString(segment.model).graph for segment in chain.segments if segment.model]
        names = [name for graph in graphs for node in graph.node for name in node.output]
        assert len(graphs) > 1
        assert len(names) == len(set(names)) <= len(model.graph.node)
        assert sum(len(graph.initializer) for graph in graphs) <= len(model.graph.initializer)


def test_workers_read_files_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is sent holds the samples, and paths are absolute: workers may run in another folder."""
    files(tmp_path, 200, 200)
    monkeypatch.chdir(tmp_path)
    sent: list[bytes] = []

    class Recorder(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            sent.append(pickle.dumps((fn, args)))
            monkeypatch.chdir("/")
            done: Future[Any] = Future()
            done.set_result(pickle.loads(sent[-1])[0](*pickle.loads(sent[-1])[1]))
            return done

    condensed(["0.npz", "1.npz"], Recorder())
    assert sent
    assert max(map(len, sent)) < images(200, 0).nbytes / 4


def test_files_are_not_held_all_at_once(tmp_path: Path) -> None:
    given = files(tmp_path, 50, 50, 50)
    shard_list, held = opened(SPECS, given, True)
    assert [s.kept for s in shard_list] == [40, 40, 40]
    assert sum(len(f["x"]) for f in held) == 30
    assert all(isinstance(s.source, str) for s in shard_list), "samples to estimate from stay in the files"
    read = Calibration(shard_list).each(Shard.feeds)
    for number, path in enumerate(given):
        np.savez(path, x=images(50, 10 + number))
        (feed,) = next(read)
        path.unlink()
        np.testing.assert_array_equal(feed["x"], images(50, 10 + number)[np.arange(50) % 5 < 4])


def test_shards_in_memory_and_generators(tmp_path: Path) -> None:
    given = files(tmp_path, 30, 7, 40)
    arrays = [{"x": images(30, 0)}, {"x": images(7, 1)}, {"x": images(40, 2)}]
    assert condensed(iter(arrays)) == condensed([given[0], *arrays[1:]]) == alone(30, 7, 40)


def test_cutting_into_shards_changes_rounding_only() -> None:
    data, options = images(60, 1), {"budget": None, "threshold": 0.8, "data": {"x": images(4, 2)}}
    model = residual()

    def refits(given: Any) -> Any:
        return oc.condense(model, oc.Options(align=1, calibration=given, **options)).plan.refits

    for one, other in zip(refits({"x": data}), refits([{"x": data[:7]}, {"x": data[7:]}]), strict=True):
        np.testing.assert_allclose(one.weight, other.weight, rtol=1e-4, atol=1e-5)


def test_a_fifth_is_held_back() -> None:
    rest, held = held_back([{"x": np.arange(12)}, {"x": np.arange(100, 104)}], True)
    assert [f["x"].tolist() for f in held] == [[4, 9], [102]]
    assert [len(f["x"]) for f in rest] == [10, 3]
    rest, held = held_back([{"x": np.full(1, i)} for i in range(6)], False, first=3)
    assert [f["x"][0] for f in held] == [1]
    assert [f["x"][0] for f in rest] == [0, 2, 3, 4, 5]
    assert held_back([{"x": np.arange(3)}], True)[1] == []


def test_single_samples_are_held_back_across_shards_and_few_all_verify() -> None:
    single = [{"x": images(1, seed)} for seed in range(11)]
    shard_list, held = opened(SPECS, single, True)
    assert len(held) == 2
    assert sum(s.kept for s in shard_list) == 9
    few, verifying = opened(SPECS, single[:3], True)
    assert len(verifying) == 3
    assert sum(s.kept for s in few) == 3
    assert opened(SPECS, single, False)[1] == []


def test_a_folder_is_its_files(tmp_path: Path, cli: Cli, save: Save) -> None:
    save(residual())
    (tmp_path / "shards").mkdir()
    files(tmp_path / "shards", 30, 7, 40)
    cli.ok("--calibration", "shards", "--budget", "params=0.7", "--align", "1", "m.onnx")
    assert Path("m.condensed.onnx").read_bytes() == alone(30, 7, 40)
    (tmp_path / "empty").mkdir()
    assert "holds no data" in cli.fails(2, "m.onnx", "--calibration", "empty", "-o", "none.onnx")


def test_errors(tmp_path: Path, cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(residual())
    np.savez("good.npz", x=images(30, 1))
    assert "cannot read missing.npz" in cli.fails(
        2, "--calibration", "good.npz", "--calibration", "missing.npz", "m.onnx"
    )
    with pytest.raises(oc.InputError, match="lacks input x"):
        condensed([{"x": images(9, 1)}, {"y": images(9, 1)}])
    with processes(1) as pool, pytest.raises(oc.WorkerError, match="died"):
        list(Calibration(opened(SPECS, [{"x": images(9, 1)}], False)[0], pool).each(_dies))
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(oc.UsageError, match=r"pip install '.*\[dask\]'"), dask("tcp://127.0.0.1:1"):
        pass


def _dies(shard: Shard) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------- Dask


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A local cluster of two workers, in processes of their own."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        yield local


def test_dask(tmp_path: Path, cluster: Any, cli: Cli, save: Save) -> None:
    given = files(tmp_path, 30, 7, 40)
    with dask(cluster.scheduler_address) as executor:
        assert condensed(given, executor) == alone(30, 7, 40)
    save(residual())
    options = ["--budget", "params=0.7", "--align", "1"]
    options += [word for path in given for word in ("--calibration", str(path))]
    cli.ok("m.onnx", *options, "--dask", cluster.scheduler_address)
    assert Path("m.condensed.onnx").read_bytes() == alone(30, 7, 40)


def test_a_dask_worker_killed_midway_costs_time_not_the_result(tmp_path: Path, cluster: Any) -> None:
    given = files(tmp_path, 30, 7, 40)
    killed: list[int] = []

    def kill(stage: str) -> None:
        if stage.startswith("calibrate ") and "shard 1/" in stage and not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    with dask(cluster.scheduler_address) as executor:
        options = oc.Options(budget=("params", 0.7), align=1, calibration=given)
        result = oc.condense(residual(), options, executor=executor, progress=kill)
    assert killed
    assert serialize(result.model) == serialize(oc.condense(residual(), options).model)


def test_dask_says_what_is_wrong(cli: Cli, save: Save, cluster: Any) -> None:
    save(residual())
    np.savez("inputs.npz", x=images(30, 1))
    with pytest.raises(oc.WorkerError, match="no Dask scheduler"), dask("tcp://127.0.0.1:9", timeout=1):
        pass
    with pytest.raises(oc.WorkerError, match="over and over"), dask(cluster.scheduler_address) as executor:
        list(Calibration(opened(SPECS, ["inputs.npz"], False)[0], executor).each(_dies))


@pytest.mark.parametrize("batch", ["batch", 5])
def test_the_first_samples_and_the_others(batch: int | str, tmp_path: Path) -> None:
    paths = files(tmp_path, 40, 5, 50)
    given, _ = opened([InputSpec("x", np.dtype(np.float32), (batch, 3, 8, 8))], paths, holds_back=False)
    everything = np.concatenate([feed["x"] for shard in given for feed in shard.feeds()])
    for samples in (0, 1, 32, 41, 45, 46, 1000):
        first, rest = Calibration(given).split(samples)
        again = Calibration(given).taken(rest)
        assert again.samples == sum(len(feed["x"]) for feed in first)
        both = zip(first, (feed for shard in again.shards for feed in shard.feeds()), strict=True)
        assert all(np.array_equal(one["x"], other["x"]) for one, other in both)
        others = [feed for shard in rest.shards for feed in shard.feeds()]
        taken = sum(len(feed["x"]) for feed in first)
        assert taken == min(95, samples if batch == "batch" else -(-samples // 5) * 5)
        assert rest.samples == 95 - taken == sum(len(feed["x"]) for feed in others)
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in (*first, *others)]), everything)


def test_feeds_whose_inputs_are_tied_are_taken_whole() -> None:
    def specs(*second: int | str) -> list[InputSpec]:
        return [InputSpec("x", np.dtype(np.float32), ("n", 3)), InputSpec("y", np.dtype(np.float32), second)]

    assert divisible(specs("n", 4))
    assert not divisible(specs("n", "n"))
    assert not divisible(specs("m", "n + 1"))
    feed = {"x": np.zeros((4, 3), np.float32), "y": np.zeros((5, 2), np.float32)}
    assert cut([feed], divisible(specs("edges", 2)), 2) == ([feed], [])
    assert held_back([feed], divisible(specs("edges", 2)), first=4) == ([], [feed])


def test_a_file_is_read_once_more_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = files(tmp_path, 50)
    calls: list[Any] = []
    monkeypatch.setattr(f"{READ}.read_feeds", lambda *given: calls.append(given) or read_feeds(*given))
    (shard,), _ = opened(SPECS, [path], True)
    first, rest = Calibration((shard,)).split(10)
    (whole,), (others,) = shard.feeds(), rest.shards[0].feeds()
    assert len(calls) == 2
    np.testing.assert_array_equal(whole["x"], np.concatenate([first[0]["x"], others["x"]]))
    assert not pickle.loads(pickle.dumps(shard)).memory.feeds, "workers read it themselves"
    monkeypatch.setattr(f"{READ}.REMEMBERED", 10)
    small = opened(SPECS, [path], True)[0][0]
    assert len(small.feeds()[0]["x"]) == len(small.feeds()[0]["x"]) == 40
    assert len(calls) == 5


def test_all_that_is_asked_ahead_is_summed_at_once_and_nobody_else_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summing, "ENOUGH", 200)
    found = open_model(residual(), Options(calibration={"x": images(50, 0)}), Clock(None))
    runs, each = list[Any](), Calibration.each
    monkeypatch.setattr(Calibration, "each", lambda self, job: runs.append(job) or each(self, job))
    readers = readers_of(found.trace, ())
    together = measured(found.trace, found.calibration, 0, readers)
    (last,) = together(readers[-1:])
    assert len(runs) == 1
    assert together(readers)[-1] is last
    assert len(runs) == 1
    (alone,) = measured(found.trace, found.calibration, 0)(readers[-1:])
    assert last is not None
    assert alone is not None
    np.testing.assert_array_equal(last.xx, alone.xx)


def test_samples_say_at_which_sizes_a_model_runs() -> None:
    """As exports of attention do that hold the length that they saw, whatever they state."""
    net = Net()
    flat = net.node("Reshape", net.input("batch", "length", 4), net.ints(-1, 20))
    hidden = net.node("Relu", net.dense("first", flat, net.normal(12, 20)))
    model = net.build(net.dense("second", hidden, net.normal(3, 12)))
    options = {"budget": ("params", 0.8), "align": 1}
    with pytest.raises(oc.InputError, match="no generated inputs run"):
        oc.condense(model, oc.Options(**options))
    samples = np.random.default_rng(0).standard_normal((40, 5, 4)).astype(np.float32)
    result = oc.condense(model, oc.Options(calibration={"x": samples}, **options))
    assert count_parameters(result.model.graph)[0] <= 0.8 * count_parameters(model.graph)[0]


def test_a_model_without_inputs_is_fed_nothing_once() -> None:
    assert pieces([{}], divisible=True) == [{}]
    assert cut([{}], divisible=True, samples=3) == ([{}], [])
