"""--budget error=R and --evaluate: the smallest model within a bound, by few evaluations, and what was measured."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.apart import apart
from support.cli import OUT, Cli, Save, gone, listening, read
from support.networks import half_redundant

import onnx_condense as oc
from onnx_condense.model.protos import serialize
from onnx_condense.operators.queries import count_parameters
from onnx_condense.options import DEFAULT_TRIALS
from onnx_condense.planning.candidates import CandidateReport, pareto
from onnx_condense.planning.search import FINE

MODEL = half_redundant()
PARAMETERS = count_parameters(MODEL.graph)[0]

SCORE = """
import hashlib, os, sys
model, log = sys.argv[1:]
size = os.path.getsize(model)
with open(log, "a") as file:
    print(size, hashlib.sha256(open(model, "rb").read()).hexdigest(), file=file)
print("evaluating ...")
print(size / {size} if size < {size} else 1.0)
print()
"""
"""Scores a model by its size, and writes down what it was asked for."""


class Scorer:
    """Scores a model by the share of the parameters that it keeps, and remembers the models."""

    def __init__(self, score: Callable[[float], Any] = lambda share: share) -> None:
        self.score = score
        self.seen: list[bytes] = []

    def __call__(self, model: onnx.ModelProto) -> Any:
        self.seen.append(serialize(model))
        kept = count_parameters(model.graph)[0] / PARAMETERS
        del model.graph.node[:]  # what a scorer does to its model is its own affair
        return self.score(kept)


def found(result: oc.Result) -> Any:
    assert result.report.search is not None
    return result.report.search


def chosen(result: oc.Result) -> CandidateReport:
    """The smallest candidate that is accepted, which must be what is written."""
    smallest = min((c for c in found(result).candidates if c.accepted), key=lambda c: c.parameters)
    output = result.report.output or result.report.input
    assert (smallest.parameters, smallest.macs) == (output.parameters, output.macs)
    return smallest


# ------------------------------------------------------------------------------------------------------ the bound


@pytest.mark.parametrize("bound", [0.05, 0.3])
@pytest.mark.parametrize("data", [False, True])
def test_the_error_is_within_the_bound(bound: float, data: bool) -> None:
    given = {"x": np.random.default_rng(1).standard_normal((20, 3, 10, 10)).astype(np.float32)} if data else None
    result = oc.condense(MODEL, oc.Options(budget=("error", bound), align=1, data=given))
    assert result.changed
    assert result.report.verification is not None
    assert result.report.verification.samples == (20 if data else 16)
    assert chosen(result).value == result.report.verification.approximation_error <= bound
    assert found(result).evaluations == len(found(result).candidates) - 1 <= DEFAULT_TRIALS
    refused = [c.parameters for c in found(result).candidates if not c.accepted]
    assert max(refused) < chosen(result).parameters
    assert chosen(result).parameters - max(refused) < 0.05 * PARAMETERS


def test_a_wider_bound_gives_a_smaller_model() -> None:
    sizes = [
        chosen(oc.condense(MODEL, oc.Options(budget=("error", bound), align=1))).parameters
        for bound in (0.02, 0.1, 0.5)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_calibration_is_part_of_a_candidate() -> None:
    data = {"x": np.random.default_rng(0).standard_normal((50, 3, 10, 10)).astype(np.float32)}
    result = oc.condense(MODEL, oc.Options(budget=("error", 0.1), align=1, calibration=data, trials=6))
    verification = result.report.verification
    assert result.changed
    assert verification is not None
    assert verification.samples == 10
    assert chosen(result).value == verification.approximation_error <= 0.1
    assert {refit.source for refit in result.plan.refits} == {"calibration"}


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.45])
def test_the_score_is_within_the_drop(drop: float) -> None:
    score = Scorer()
    result = oc.condense(MODEL, oc.Options(evaluate=score, max_drop=drop, align=1))
    assert found(result).bound == 1 - drop
    assert found(result).evaluations == len(score.seen) <= DEFAULT_TRIALS
    assert 1 - drop <= chosen(result).value <= 1 - drop + 0.02
    assert serialize(result.model) in score.seen, "what was evaluated is what is written"


def test_a_score_that_does_not_fall_evenly() -> None:
    """Some sizes are refused that lie above sizes that are accepted."""
    score = Scorer(lambda share: 1.0 if share > 0.9 or int(share * 40) % 3 else 0.0)
    result = oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.5, align=1))
    assert chosen(result).value == 1.0
    assert chosen(result).parameters < 0.9 * PARAMETERS
    assert 0.0 in [c.value for c in found(result).candidates]
    assert serialize(result.model) in score.seen


def test_a_drop_in_decimals() -> None:
    """0.83 - 0.01 is not 0.82 in binary."""
    score = Scorer(lambda share: 0.83 if share == 1 else 0.82)
    assert oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.01, align=1, trials=3)).changed


@pytest.mark.parametrize("trials", [2, 3, 6])
def test_never_more_evaluations_than_trials(trials: int) -> None:
    score = Scorer()
    by_score = oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.1, align=1, trials=trials))
    assert found(by_score).evaluations == len(score.seen) == trials
    by_error = oc.condense(MODEL, oc.Options(budget=("error", 0.1), align=1, trials=trials))
    assert found(by_error).evaluations == trials == len(found(by_error).candidates) - 1


def test_a_search_ends_when_widths_repeat() -> None:
    """Alignment leaves four widths per layer; none is evaluated twice."""
    score = Scorer()
    oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.1, align=8, trials=200))
    assert len(score.seen) == len(set(score.seen)) < 16


# ------------------------------------------------------------------------------------------ nothing within the bound


def test_the_original_is_an_answer() -> None:
    score = Scorer(lambda share: float(share == 1))
    result = oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.5, align=1))
    assert not result.changed
    assert not result.plan.groups
    assert [c.accepted for c in found(result).candidates].count(True) == 1
    assert len(score.seen) <= DEFAULT_TRIALS
    pinned = oc.condense(MODEL, oc.Options(evaluate=Scorer(), max_drop=0.5, include=("head",)))
    assert not pinned.changed
    assert found(pinned).evaluations == 1


def test_the_original_is_an_answer_on_the_command_line(cli: Cli, save: Save) -> None:
    path = save(MODEL)
    outcome = cli.ok("m.onnx", "--budget", "error=0", "--align", "1", "--report", "r.json", "--trials", "4")
    assert "Nothing could be condensed within the bound" in outcome.out
    assert (cli.folder / OUT).read_bytes() == path.read_bytes()
    assert [c["accepted"] for c in read("r.json")["search"]["candidates"]] == [True, False, False, False, False]


# ---------------------------------------------------------------------------------------------- the command line


def test_a_command_that_evaluates(tmp_path: Path, save: Save) -> None:
    path = save(MODEL)
    (tmp_path / "score.py").write_text(SCORE.format(size=path.stat().st_size))
    command = f"{sys.executable} score.py {{model}} 'the log'"
    options = ["--evaluate", command, "--max-drop", "0.3", "--align", "1", "--trials", "7"]
    outcome = apart("m.onnx", *options, "--plan", "p.json", "--report", "r.json", cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert outcome.written == {"the log", "p.json", "r.json", "r.recipe.toml", OUT}
    lines = [line.split() for line in (tmp_path / "the log").read_text().splitlines()]
    assert len(lines) == 7
    assert int(lines[0][0]) == path.stat().st_size
    written = (tmp_path / OUT).read_bytes()
    assert [str(len(written)), hashlib.sha256(written).hexdigest()] in lines
    assert len(written) >= 0.7 * path.stat().st_size

    report = read(tmp_path / "r.json")
    told = report["search"]
    assert (told["measure"], told["trials"], told["evaluations"]) == ("score", 7, 7)
    assert told["bound"] == pytest.approx(0.7)
    assert report["options"]["evaluate"] == command
    sizes = [candidate["parameters"] for candidate in told["candidates"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == PARAMETERS
    assert all(candidate["on_front"] for candidate in told["candidates"]), "the score falls with the size"
    assert report["output"]["parameters"] == min(c["parameters"] for c in told["candidates"] if c["accepted"])
    assert "Candidates, 7 of at most 7 evaluations" in outcome.out
    assert "Pareto front" in outcome.out
    assert all(f"{size:,}" in outcome.out for size in sizes)

    (tmp_path / "score.py").unlink()
    again = apart("m.onnx", "--replay", "p.json", "-o", "again.onnx", "--report", "again.json", cwd=tmp_path)
    assert again.code == 0
    assert (tmp_path / "again.onnx").read_bytes() == written
    replayed = read(tmp_path / "again.json")["options"] | {"input_shape": {}}
    assert replayed == report["options"] | {"align": 1}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print(1); print('no GPU', file=sys.stderr); sys.exit(3)", r'ended with code 3 ("no GPU")'),
        ("print('no GPU'); sys.exit(3)", r'ended with code 3 ("no GPU")'),
        ("os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("", "printed no score"),
        ("print('accuracy: 0.9')", "not 'accuracy: 0.9'"),
        ("print(0.9); print('done')", "not 'done'"),
        ("print('nan')", "gave the score nan"),
        ("print('-inf')", "gave the score -inf"),
    ],
)
def test_a_command_that_fails_is_one_clear_line(cli: Cli, save: Save, body: str, words: str) -> None:
    save(MODEL)
    (cli.folder / "score.py").write_text(f"import os, sys\n{body}")
    command = f"{sys.executable} score.py {{model}}"
    message = cli.fails(1, "m.onnx", "--evaluate", command, "--max-drop", "0.1")
    assert words in message
    assert "--evaluate" in message


@pytest.mark.parametrize("score", [lambda _: None, lambda _: "0.9", lambda _: True, lambda _: np.nan, lambda _: 1 / 0])
def test_a_function_that_fails_is_one_clear_line(score: Any) -> None:
    with pytest.raises(oc.EvaluationError, match=r"the evaluation (gave|raised ZeroDivisionError)") as caught:
        oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.1))
    assert len(str(caught.value).splitlines()) == 1


def test_a_candidate_that_fails_ends_the_run() -> None:
    with pytest.raises(oc.EvaluationError, match="score nan"):
        oc.condense(MODEL, oc.Options(evaluate=Scorer(lambda share: 1.0 if share == 1 else np.nan), max_drop=0.1))


def test_wrong_usage(cli: Cli, save: Save) -> None:
    save(MODEL)
    score = ["--evaluate", "score {model}", "--max-drop", "0.1"]
    for wrong, words in (
        (["--evaluate", "python score.py", "--max-drop", "0.1"], "write {model} where its path goes"),
        (["--evaluate", "score '{model}", "--max-drop", "0.1"], "check its quotes"),
        (["--evaluate", "no-such-program {model}", "--max-drop", "0.1"], "no-such-program cannot be started"),
        (["--evaluate", "score {model}"], "--max-drop"),
        (["--max-drop", "0.1"], "--evaluate"),
        (["--evaluate", "score {model}", "--max-drop", "-0.1"], "--max-drop"),
        (["--evaluate", "score {model}", "--max-drop", "nan"], "--max-drop"),
        (["--budget", "error=-1"], "--budget"),
        (["--budget", "error=nan"], "--budget"),
        (["--trials", "3"], "--trials"),
        (["--trials", "3", "--budget", "params=0.5"], "--trials"),
        (["--trials", "0", "--budget", "error=0.1"], "at least 1"),
        ([*score, "--trials", "1"], "at least 2"),
        ([*score, "--budget", "params=0.5"], "drop --budget"),
        ([*score, "--threshold", "0.9"], "drop --threshold"),
        ([*score, "--layer-threshold", "first=0.9"], "drop --layer-threshold"),
        ([*score, "--lossless"], "drop --lossless"),
        ([*score, "--tolerance", "0.1"], "drop --tolerance"),
        ([*score, "--sequential"], "drop --sequential"),
        ([*score, "--ensure-faster"], "drop --ensure-faster"),
        (["--budget", "error=0.1", "--ensure-faster"], "drop --ensure-faster"),
        ([*score, "--replay", "p.json"], "drop --evaluate"),
    ):
        assert words in cli.fails(2, "m.onnx", *wrong), wrong


def test_ctrl_c_ends_the_command_too(tmp_path: Path, save: Save) -> None:
    save(MODEL)
    (tmp_path / "hang.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "onnx_condense", "m.onnx", "--max-drop", "0.1"]
    command += ["--evaluate", f"{sys.executable} hang.py {{model}}"]
    for number in (signal.SIGINT, signal.SIGTERM):
        pid = tmp_path / "pid"
        pid.unlink(missing_ok=True)
        options = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True, "preexec_fn": listening}
        with subprocess.Popen(command, **options) as process:
            while not (pid.exists() and pid.read_text()):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)
            _, errors = process.communicate()
        assert process.returncode == 1
        assert errors == "onnx-condense: error: interrupted: nothing was written\n"
        assert gone(int(pid.read_text()))
        assert not (tmp_path / OUT).exists()


# ------------------------------------------------------------------------------------- the same again, and elsewhere


@pytest.mark.parametrize("options", [{"budget": ("error", 0.1)}, {"evaluate": Scorer(), "max_drop": 0.2}])
def test_the_same_bytes_again_and_by_replay(options: Any, tmp_path: Path) -> None:
    asked = oc.Options(**options, align=1, trials=5)
    first, second = (oc.condense(MODEL, asked) for _ in range(2))
    assert serialize(first.model) == serialize(second.model)
    assert found(first) == found(second)
    first.plan.save(tmp_path / "p.json")
    plan = oc.Plan.load(tmp_path / "p.json")
    assert plan == second.plan
    replayed = oc.condense(MODEL, replay=plan)
    assert serialize(replayed.model) == serialize(first.model)
    assert replayed.report.search is None
    assert oc.Options.of_plan(plan.options, plan.align).to_json() == plan.options
    assert serialize(oc.rewrite(MODEL, plan)) == serialize(first.model)


def test_an_executor_changes_nothing() -> None:
    options = oc.Options(evaluate=Scorer(), max_drop=0.2, align=1)
    alone = oc.condense(MODEL, options)
    threads = set()

    def score(model: onnx.ModelProto) -> float:
        threads.add(threading.get_ident())
        return count_parameters(model.graph)[0] / PARAMETERS

    with ThreadPoolExecutor(3) as executor:
        together = oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.2, align=1), executor=executor)
    assert threads - {threading.get_ident()}
    assert found(together) == found(alone)
    assert [r.weight.tobytes() for r in together.plan.refits] == [r.weight.tobytes() for r in alone.plan.refits]


def test_a_function_that_workers_cannot_import_is_bad_usage() -> None:
    with ProcessPoolExecutor(1) as executor, pytest.raises(oc.UsageError, match="function of a module"):
        oc.condense(MODEL, oc.Options(evaluate=lambda _: 1.0, max_drop=0.2), executor=executor)


# ------------------------------------------------------------------------------------------------ the Pareto table


def test_the_front_is_what_no_other_candidate_beats() -> None:
    tried = [
        CandidateReport(100, 50, 0.0, True),
        CandidateReport(40, 20, 0.3, False),
        CandidateReport(60, 30, 0.2, True),
        CandidateReport(50, 25, 0.1, True),
        CandidateReport(60, 10, 0.2, True),
    ]
    table = pareto(tried, higher=False)
    assert [c.parameters for c in table] == [100, 60, 60, 50, 40]
    assert [(c.parameters, c.macs) for c in table if not c.on_front] == [(60, 30)]
    assert [c.on_front for c in pareto(tried, higher=True)] == [False, False, True, False, True]


def test_the_range_is_cut_until_it_is_fine() -> None:
    score = Scorer()
    result = oc.condense(MODEL, oc.Options(evaluate=score, max_drop=0.2, align=1, trials=100))
    assert len(score.seen) < 30
    assert chosen(result).value <= 0.8 + FINE + 2 * 9 * 24 / PARAMETERS
