"""The automatic reduction with scripted trainers: schedules, thresholds, limits, reverts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from support import builders
from support.scripted import PAPER, PLAIN, Score, Scripted, deep, events, go

from onnx_condense import Options, UsageError
from onnx_condense.auto.folder import Folder
from onnx_condense.auto.schedules import sigmoid
from onnx_condense.auto.state import State
from onnx_condense.auto.status import status, working
from onnx_condense.auto.steps import survey
from onnx_condense.finetune import Settings, run
from onnx_condense.operators.queries import count_parameters
from onnx_condense.progress import Step

# ---------------------------------------------------------------------- schedules


def test_the_papers_criteria_before_every_round(tmp_path: Path) -> None:
    go(tmp_path, Scripted(), replace(PAPER, rounds=7), deep(16))
    rounds = status(tmp_path / "work")["rounds"]
    assert [len(e["layers"]) for e in events(tmp_path / "work", "surveyed")] == [16] * 8
    found = [(round(r["criterion"], 5), round(r["layer_criterion"], 5)) for r in rounds]
    main = [0.88, 0.87837, 0.87343, 0.86641, 0.85904, 0.85315, 0.85018]
    layer = [0.84, 0.83837, 0.83343, 0.82641, 0.81904, 0.81315, 0.81018]
    assert found == list(zip(main, layer, strict=True))


def test_the_learning_rate_falls_with_the_reductions_made(tmp_path: Path) -> None:
    trainer = Scripted()
    go(tmp_path, trainer, replace(PAPER, rounds=1, learning_rate_period=2), deep(4))
    rates = [rate for _, rate, _ in trainer.calls]
    assert rates[:4] == pytest.approx([1e-2, 1e-2, (1e-2 + 1e-4) / 2, 1e-4])
    assert rates[4:] == pytest.approx([1e-4] * len(rates[4:])), "clamped after the period"


def test_the_paper_scaled_to_the_starting_score(tmp_path: Path) -> None:
    state = go(tmp_path, Scripted(0.79), Settings(rounds=1))
    assert state.goals is not None
    scale = 0.79 / 0.8816
    found = (state.goals.main.start, state.goals.main.end, state.goals.layer.start, state.goals.layer.end)
    assert found == pytest.approx([0.88 * scale, 0.85 * scale, 0.84 * scale, 0.81 * scale])
    assert (state.goals.last, state.goals.deviation) == pytest.approx((0.8 * scale, 0.5 * scale))


def test_what_is_at_work_says_how_far_it_is(tmp_path: Path) -> None:
    found: list[Step] = []

    def watch(state: State, _: object) -> None:
        found.append(working(state))

    go(tmp_path, Scripted(), replace(PAPER, rounds=1), deep(4), watch=watch)
    assert {step.kind for step in found} == {"train", "train the network"}
    assert all(0 <= step.done < step.total for step in found)


@pytest.mark.parametrize("score", [0.0, -3.5])
def test_scores_that_are_not_positive_need_explicit_criteria(tmp_path: Path, score: float) -> None:
    with pytest.raises(UsageError, match=r"--criterion, --layer-criterion, --last-criterion, --deviation-score"):
        go(tmp_path, Scripted(score), Settings(rounds=1))
    explicit = Settings((score - 1, -9), (score - 2, -9), last_criterion=-9, deviation_score=-20, rounds=1)
    (tmp_path / "other").mkdir()
    assert go(tmp_path / "other", Scripted(score), explicit).reason == "rounds"


# ---------------------------------------------------------------------- thresholds, limits, reverts


def shrunk(good: float, bad: float) -> Score:
    """Scores that tell a reduced model from the first one."""
    first: list[int] = []

    def score(trainer: Scripted) -> float:
        first.append(trainer.parameters)
        return good if trainer.parameters == first[0] else bad

    return score


def test_failing_attempts_revert_bit_for_bit(tmp_path: Path) -> None:
    model = deep(2)
    state = go(
        tmp_path,
        Scripted(shrunk(0.9, 0.7)),
        replace(PAPER, rounds=1, step_limit=2, last_step_limit=3, threshold_up=3.0),
        model,
    )
    folder = Folder(tmp_path / "work")
    assert state.now.model == state.start.model
    assert folder.bytes_of(state.now.model) == model.SerializeToString(deterministic=True)
    assert (folder.path / "result.onnx").read_bytes() == model.SerializeToString(deterministic=True)
    reduced = [e["model"] for e in events(folder.path, "reduced")]
    assert len(events(folder.path, "reverted")) == len([m for m in reduced if m != state.start.model]) > 4
    kept = [e["threshold"] for e in events(folder.path, "accepted")]
    assert all(t > 1 - 1e-5 for t in kept), "a layer is let go where nothing merges"


def test_a_failure_raises_the_threshold_and_the_limit(tmp_path: Path) -> None:
    failing = 3

    def score(trainer: Scripted) -> float:
        return 0.9 if trainer.parameters == first or len(reverts()) >= failing else 0.6

    def reverts() -> list[dict[str, Any]]:
        return events(tmp_path / "work", "reverted")

    model = deep(3)
    first = count_parameters(model.graph)[0]
    state = go(tmp_path, Scripted(score), replace(PAPER, rounds=1), model)
    assert [r["limit"] for r in reverts()] == [r["steps"] for r in reverts()] == [20, 30, 40]
    assert [r["layer"] for r in reverts()] == [["fc0"]] * 3
    thresholds = [e["threshold"] for e in events(tmp_path / "work", "reduced")][:5]
    assert thresholds == pytest.approx([sigmoid(x) for x in (2, 2.5, 3, 3.5, 2)]), "each layer has its own"
    assert state.limit == 50, "for good"


def test_a_layer_that_hardly_shrinks_is_reduced_harder_next_time(tmp_path: Path) -> None:
    go(tmp_path, Scripted(), replace(PAPER, rounds=3, least_removed=0.03), deep(2))
    thresholds = [e["threshold"] for e in events(tmp_path / "work", "reduced") if e["layer"] == ["fc0"]]
    removed = [e["small"] for e in events(tmp_path / "work", "accepted") if e["layer"] == ["fc0"]]
    assert removed == [False, True, True]
    assert thresholds == pytest.approx([sigmoid(2), sigmoid(2), sigmoid(1.5)])


def test_nothing_to_merge_needs_no_training(tmp_path: Path) -> None:
    trainer = Scripted()
    state = go(tmp_path, trainer, replace(PAPER, rounds=2), builders.mlp((4, 6, 6, 6, 3)))
    steps = [(e["layer"], e["steps"]) for e in events(tmp_path / "work", "accepted")]
    assert steps[:4] == [(["fc0"], 0), (["fc1"], 0)] * 2
    assert state.completed == 4, "they count as reductions made"


def test_far_off_after_ten_steps_reverts_at_once(tmp_path: Path) -> None:
    go(tmp_path, Scripted(shrunk(0.9, 0.49)), replace(PAPER, last_step_limit=200, rounds=1, threshold_up=4.0), deep(3))
    reverted = events(tmp_path / "work", "reverted")
    assert {(r["reason"], r["steps"]) for r in reverted} == {("deviation", 10)}


def test_tests_fall_on_the_tenth_step_and_on_the_limit(tmp_path: Path) -> None:
    trainer = Scripted(shrunk(0.9, 0.6))
    go(
        tmp_path,
        trainer,
        replace(PAPER, last_step_limit=20, rounds=1, test_every=8, step_limit_growth=0, threshold_up=4.0),
        deep(2),
    )
    assert [steps for steps, _, _ in trainer.calls][:4] == [8, 2, 8, 2]
    assert [done for _, _, done in trainer.calls][:5] == [0, 8, 10, 18, 0]


def test_the_last_layer_of_a_round_has_limits_of_its_own(tmp_path: Path) -> None:
    """Its criterion is 0.8 and its limit 200 steps, which a failure does not extend."""
    model = deep(2)
    first = count_parameters(model.graph)[0]
    settings = replace(
        PAPER, rounds=1, last_layer_threshold=None, last_step_limit=25, threshold_up=40.0, main_step_limit=1
    )
    go(tmp_path, Scripted(lambda t: 0.82 if t.parameters < first else 0.9), settings, model)
    ends = {e["layer"][0]: e for e in events(tmp_path / "work", "accepted")}
    assert [ends[f"fc{i}"]["steps"] for i in range(3)] == [0, 0, 1]
    assert ends["fc2"]["criterion"] == 0.8
    (tmp_path / "b").mkdir()
    state = go(tmp_path / "b", Scripted(shrunk(0.9, 0.79)), settings, model)
    last = [e for e in events(tmp_path / "b" / "work", "reverted") if e["layer"] == ["fc2"]]
    assert [e["limit"] for e in last] == [25]
    assert state.limit == 40, "two failures of other layers"


# ---------------------------------------------------------------------- the classifier's group, the end


def test_the_classifiers_group_comes_at_the_end_at_its_own_threshold(tmp_path: Path) -> None:
    scores = iter([0.9, 0.9, 0.9, 0.81, 0.84, 0.83])
    trainer = Scripted(lambda _: next(scores))
    state = go(tmp_path, trainer, replace(PAPER, rounds=1, last_step_limit=3), deep(2))
    assert [e["layer"] for e in events(tmp_path / "work", "reduced")] == [["fc0"], ["fc1"], ["fc2"]]
    assert [round(e["threshold"], 12) for e in events(tmp_path / "work", "reduced")][2] == 0.4
    assert state.now.score == 0.84, "it trains to its limit, and the best is taken"
    assert state.result == state.now


def test_off_makes_the_classifiers_group_one_of_the_layers(tmp_path: Path) -> None:
    go(tmp_path, Scripted(), replace(PAPER, rounds=1, last_layer_threshold=None))
    assert [e["layer"] for e in events(tmp_path / "work", "reduced")] == [["fc0"], ["fc1"], ["fc2"]]
    assert not events(tmp_path / "work", "last layer")


def test_rounds_begin_when_the_criterion_is_met(tmp_path: Path) -> None:
    scores = iter([0.5, 0.86, 0.87, 0.885])
    trainer = Scripted(lambda _: next(scores, 0.9))
    go(tmp_path, trainer, replace(PAPER, rounds=1, main_test_every=7), deep(2))
    assert [steps for steps, _, _ in trainer.calls][:3] == [7, 7, 7]
    assert status(tmp_path / "work")["rounds"][0]["steps"] == 21 + 2


def test_a_criterion_that_is_never_met_ends_the_run_with_the_best_before(tmp_path: Path) -> None:
    model = deep(2)
    first = count_parameters(model.graph)[0]
    settings = replace(PAPER, main_step_limit=6, layer_criterion=(0.7, 0.7), last_criterion=0.86, threshold_up=4.0)
    state = go(tmp_path, Scripted(lambda t: 0.9 if t.parameters == first else 0.75), settings, model)
    assert state.reason == "criterion not met"
    assert state.result == state.start, "the others scored below the last layer's criterion too"
    assert state.now.parameters < first
    (tmp_path / "b").mkdir()
    state = go(tmp_path / "b", Scripted(0.2), settings, model)
    assert (state.reason, state.result, state.rows) == ("criterion not met", None, ())
    assert state.total_steps == 6


def test_after_a_criterion_that_is_not_met_the_classifiers_group_still_goes(tmp_path: Path) -> None:
    """As in the paper, whose last reduction began at 0.8313 where the criterion was 0.85018."""
    model = deep(2)
    first = count_parameters(model.graph)[0]
    settings = replace(PAPER, main_step_limit=6, last_step_limit=2)
    state = go(tmp_path, Scripted(lambda t: 0.9 if t.parameters == first else 0.845), settings, model)
    assert state.reason == "criterion not met"
    assert [e["layer"] for e in events(tmp_path / "work", "accepted")] == [["fc0"], ["fc1"], ["fc2"]]
    assert state.result is not None
    assert state.result.score == 0.845


def test_until_counts_what_the_last_reduction_will_remove(tmp_path: Path) -> None:
    model = deep(2, width=12, clusters=6)
    state = go(tmp_path, Scripted(), replace(PAPER, until=0.99), model)
    assert (state.reason, state.rows) == ("until", ()), "the classifier's group alone is enough"
    assert state.result is not None
    assert state.result.parameters < 0.99 * state.start.parameters
    (tmp_path / "b").mkdir()
    state = go(tmp_path / "b", Scripted(), replace(PAPER, until=0.4), model)
    assert (state.reason, len(state.rows)) == ("until", 1)


def test_rounds_that_remove_nothing_end_the_run(tmp_path: Path) -> None:
    model = builders.mlp((40, 6, 6, 3))
    state = go(tmp_path, Scripted(), replace(PAPER, patience=2), model)
    assert (state.reason, len(state.rows)) == ("nothing left", 2)


def test_one_group_only_is_the_classifiers(tmp_path: Path) -> None:
    state = go(tmp_path, Scripted(), PAPER, builders.mlp((4, 8, 3), clusters=5))
    assert (state.reason, state.rows) == ("no layers", ())
    assert state.result is not None
    assert state.result.parameters < state.start.parameters


def test_the_group_of_the_classifier_in_a_residual_network() -> None:
    """Its first producer comes early: the stream is read by the blocks too, and by the classifier last."""
    text = """g (float[N, 8] x) => (float[N, 3] y) {
        [stem] s = Gemm<transB = 1>(x, w0)
        r = Relu(s)
        [up] u = Gemm<transB = 1>(r, w1)
        v = Relu(u)
        [down] d = Gemm<transB = 1>(v, w2)
        a = Add(s, d)
        [top] y = Gemm<transB = 1>(a, w3)
    }"""
    shapes = [(8, 8), (6, 8), (8, 6), (3, 8)]
    model = builders.build(text, {f"w{i}": builders.random(*shape, seed=i) for i, shape in enumerate(shapes)})
    assert survey(model, PLAIN, True) == ([("up",)], ("stem", "down"))
    assert survey(model, replace(PLAIN, include=("stem",)), True) == ([], ("stem", "down"))
    assert survey(model, replace(PLAIN, exclude=("stem",)), True) == ([("up",)], None)
    assert survey(model, PLAIN, False) == ([("stem", "down"), ("up",)], None)


def test_names_that_look_like_globs(tmp_path: Path) -> None:
    model = deep(2)
    for number, node in enumerate(n for n in model.graph.node if n.op_type == "Gemm"):
        node.name = ("a[1]", "a*", "a?", "head")[number]
    go(tmp_path, Scripted(), replace(PAPER, rounds=1), model)
    accepted = events(tmp_path / "work", "accepted")
    assert [e["layer"] for e in accepted] == [["a[1]"], ["a*"], ["a?"]]
    assert all(e["steps"] for e in accepted), "each of them shrank, and only at its turn"


def test_nodes_without_names_and_weights_outside(tmp_path: Path) -> None:
    """Layers go by their weights' names then; the store keeps models whole."""
    model = deep(2)
    for node in model.graph.node:
        node.name = ""
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    state = run(path, Scripted(), tmp_path / "work", replace(PAPER, rounds=2), PLAIN)
    assert [e["layer"] for e in events(tmp_path / "work", "accepted")] == [["w0"], ["w1"], ["w0"], ["w1"], ["w2"]]
    result = onnx.load(tmp_path / "work" / "result.onnx")
    assert state.result is not None
    assert count_parameters(result.graph)[0] == state.result.parameters
    assert builders.weight(result, "w0").shape == (5, 4)


@pytest.mark.parametrize(
    "wrong",
    [Options(threshold=0.9), Options(lossless=True), Options(tolerance=0.1), Options(layer_threshold=(("*", 0.5),))],
)
def test_the_loop_chooses_thresholds_itself(tmp_path: Path, wrong: Options) -> None:
    with pytest.raises(UsageError, match="chooses the thresholds"):
        go(tmp_path, Scripted(), options=wrong)


def test_globs_choose_the_layers(tmp_path: Path) -> None:
    go(tmp_path, Scripted(), replace(PAPER, rounds=1), deep(3), replace(PLAIN, include=("fc[12]",)))
    assert [e["layer"] for e in events(tmp_path / "work", "reduced")] == [["fc1"], ["fc2"], ["fc3"]]
    with pytest.raises(UsageError, match="nothing_like_it"):
        go(tmp_path / "b", Scripted(), PAPER, options=replace(PLAIN, include=("nothing_like_it",)))
