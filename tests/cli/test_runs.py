"""What a run of the command line does: thresholds, globs, errors and tolerance, alignment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import OUT, Cli, Save, read, snapshot, widths

from onnx_condense.planning.alignment import block_width

# ---------------------------------------------------------------------- what a run does


def test_condenses_to_the_planted_width(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 16, 3), clusters=(5, 4)))
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 5), "fc1": (16, 4)}
    small = onnx.load(OUT)
    assert builders.weight(small, "w1").shape == (4, 5)
    cli.ok("verify", "m.onnx", OUT)


def test_nothing_to_condense_is_the_input_byte_for_byte(cli: Cli, save: Save) -> None:
    path = save(builders.mlp((8, 8, 3)))
    path.write_bytes(
        path.read_bytes() + b"\x3a\x02\x12\x00"
    )  # an empty GraphProto field to merge: other bytes, same model
    outcome = cli.ok("m.onnx", "--report", "r.json")
    assert (cli.folder / OUT).read_bytes() == path.read_bytes()
    assert "nothing to condense" in outcome.out.lower()
    report = read("r.json")
    assert report["output"]["sha256"] == report["input"]["sha256"] == snapshot(cli.folder)[OUT]


def test_by_default_the_outputs_change_by_at_most_one_percent(cli: Cli, save: Save) -> None:
    """A pair above the paper's threshold stays where merging it costs more; the last lines say what it would cost."""
    save(pair_at(0.885))
    shown = cli.ok("m.onnx", "--report", "r.json").out
    assert widths("r.json") == {"fc0": (3, 3)}
    (stated, _budget) = read("r.json")["alternatives"]
    assert stated["option"] == "--threshold 0.88"
    assert stated["error"] > 0.01
    assert "By default the error is at most 0.01. Stated instead: --threshold 0.88 leaves" in shown
    cli.ok("m.onnx", "--threshold", "0.88", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (3, 2)}
    assert read("r.json")["alternatives"] == []


@pytest.mark.parametrize("option", ["--sequential", "--ensure-faster"])
def test_the_default_holds_with_options_that_a_search_does_not_take(cli: Cli, save: Save, option: str) -> None:
    save(pair_at(0.885))
    cli.ok("m.onnx", option, "--report", "r.json")
    assert widths("r.json") == {"fc0": (3, 3)}


def test_where_outputs_say_nothing_the_default_is_exact(cli: Cli, save: Save) -> None:
    model = builders.mlp((8, 16, 3), clusters=4)
    for name, source, result in (("Abs", "y", "a"), ("Neg", "a", "n"), ("Log", "n", "p")):
        model.graph.node.append(onnx.helper.make_node(name, [source], [result]))
    model.graph.output[0].name = "p"
    save(model)
    assert "only what is exact was merged" in cli.run("m.onnx", "--report", "r.json").err
    assert [group["method"] for group in read("r.json")["groups"]] == ["lossless"]
    assert widths("r.json") == {"fc0": (16, 4)}


def test_a_regression_has_no_top_class(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    assert "top-1" not in cli.ok("m.onnx").out
    model = builders.mlp((8, 16, 3), clusters=4)
    model.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["p"]))
    model.graph.output[0].name = "p"
    save(model, "classes.onnx")
    assert "top-1 agreement 100.0%" in cli.ok("classes.onnx").out


def test_neurons_condense_above_the_threshold_not_at_it(cli: Cli, save: Save) -> None:
    rows = np.array([[1, 1, 1, 1], [1, 1, 1, -1]], dtype=np.float32)
    save(builders.head(np.vstack([rows, 2 * rows[:1]])), "more.onnx")
    cli.ok("more.onnx", "--threshold", "0.5", "--report", "r.json")
    assert widths("r.json") == {"fc0": (3, 2)}
    save(builders.head(rows))  # cosine exactly 1/2
    cli.ok("m.onnx", "--threshold", "0.5", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (2, 2)}
    cli.ok("m.onnx", "--threshold", "0.4999", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (2, 1)}


def test_threshold_one_merges_nothing(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, ratios=False))
    cli.ok("m.onnx", "--threshold", "1", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 16)}


@pytest.mark.parametrize("value", ["0", "-0.5", "1.0001", "nan", "inf", "half"])
def test_thresholds_out_of_range(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "threshold" in cli.fails(2, "m.onnx", f"--threshold={value}")
    assert "threshold" in cli.fails(2, "m.onnx", "--layer-threshold", f"fc0={value}")


@pytest.mark.parametrize("value", ["fc0", "=0.5", "fc0="])
def test_malformed_layer_thresholds(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "GLOB=T" in cli.fails(2, "m.onnx", "--layer-threshold", value)


@pytest.mark.parametrize(
    "extra", [("--threshold", "0.9"), ("--merge", "auto"), ("--merge", "ratio"), ("--merge", "delete")]
)
def test_lossless_excludes_threshold_and_merge(cli: Cli, save: Save, extra: tuple[str, str]) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "--lossless" in cli.fails(2, "m.onnx", "--lossless", *extra)


def test_lossless_merges_only_what_is_exact(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    save(builders.mlp((8, 16, 3), clusters=4, noise=0.01), "near.onnx")
    cli.ok("m.onnx", "--lossless", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    assert read("r.json")["verification"]["approximation_error"] < 1e-5
    cli.ok("near.onnx", "--lossless", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (16, 16)}


def test_lossless_repeats_until_nothing_changes(cli: Cli, save: Save) -> None:
    """fc1's second neuron is read by nobody; without it nobody reads fc0's third, which comes first in the
    graph.
    """
    w1, w2 = builders.random(3, 3, seed=1), builders.random(2, 3, seed=2)
    w1[[0, 2], 2] = 0
    w2[:, 1] = 0
    save(builders.head(builders.directions(3, 8).astype(np.float32), w1, w2))
    cli.ok("m.onnx", "--lossless", "--report", "r.json")
    assert widths("r.json") == {"fc0": (3, 2), "fc1": (3, 2)}


def test_layers_are_judged_on_original_weights_unless_sequential(cli: Cli, save: Save) -> None:
    """Two neurons of fc1 differ only in which of two nearly equal neurons of fc0 they read."""
    w0 = np.array([[1, 0, 0], [1, 0.3, 0], [0, 0, 1]], dtype=np.float32)
    w1 = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 3]], dtype=np.float32)
    save(builders.head(w0, w1, builders.random(2, 3)))
    cli.ok("m.onnx", "--threshold", "0.88", "--report", "one-shot.json")
    cli.ok("m.onnx", "--threshold", "0.88", "--sequential", "--report", "sequential.json", "--force")
    assert widths("one-shot.json") == {"fc0": (3, 2), "fc1": (3, 3)}
    assert widths("sequential.json") == {"fc0": (3, 2), "fc1": (3, 2)}


def test_merge_ratio_is_better_than_delete(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    errors = {}
    for merge in ("auto", "ratio", "delete"):
        cli.ok("m.onnx", "--threshold", "0.88", "--merge", merge, "--report", "r.json", "--force")
        assert widths("r.json") == {"fc0": (16, 4)}
        assert {g["method"] for g in read("r.json")["groups"]} == {merge}
        errors[merge] = read("r.json")["verification"]["approximation_error"]
    assert errors["auto"] == errors["ratio"] < 1e-5 < 0.1 < errors["delete"]


def test_only_auto_removes_what_nobody_reads(cli: Cli, save: Save) -> None:
    w1 = builders.random(2, 4)
    w1[:, 1] = 0
    save(builders.head(builders.directions(4, 8).astype(np.float32), w1))
    for merge, width in (("auto", 3), ("ratio", 4)):
        cli.ok("m.onnx", "--threshold", "0.88", "--merge", merge, "--report", "r.json", "--force")
        assert widths("r.json") == {"fc0": (4, width)}


def test_depthwise_kernel_judges_the_taps_alone(cli: Cli, save: Save) -> None:
    model = builders.separable(8, 4)
    builders.set_weight(model, "we", builders.directions(8, 4, limit=0.85).reshape(8, 4, 1, 1).astype(np.float32))
    save(model)
    for mode, width in (("joint", 8), ("kernel", 4)):
        cli.ok("m.onnx", "--threshold=0.88", "--depthwise", mode, "--align", "1", "--report", "r.json", "--force")
        assert [w for _, w in widths("r.json").values()] == [width]


def test_fold_batchnorm_folds_in_the_file_only_when_asked(cli: Cli, save: Save) -> None:
    save(builders.convnet(clusters=4, ratios=False, batchnorm=True))
    for options, count in (((), 2), (("--fold-batchnorm",), 0)):
        cli.ok("m.onnx", "--align", "1", "--report", "r.json", "--force", *options)
        assert [n.op_type for n in onnx.load(OUT).graph.node].count("BatchNormalization") == count
        assert widths("r.json") == {"conv0": (8, 4), "conv1": (8, 4)}
        cli.ok("verify", "m.onnx", OUT)


def pair_at(cosine: float) -> onnx.ModelProto:
    """A hidden layer of three neurons, of which two have this cosine."""
    rows = np.array([[1, 0, 0], [cosine, np.sqrt(1 - cosine**2), 0], [0, 0, 1]], dtype=np.float32)
    return builders.head(rows)


# ---------------------------------------------------------------------- globs


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--include", "fc0"), {"fc0": 5}),
        (("--include", "w1"), {"fc1": 4}),
        (("--include", "fc*", "--exclude", "fc0"), {"fc1": 4}),
        (("--include", "fc1", "--exclude", "w[0-9]"), {}),
        (("--exclude", "b1"), {"fc0": 5}),
        (("--include", "fc0", "--include", "w1"), {"fc0": 5, "fc1": 4}),
    ],
)
def test_globs_match_node_or_weight_names_and_exclude_wins(
    cli: Cli, save: Save, options: tuple[str, ...], expected: dict[str, int]
) -> None:
    save(builders.mlp((8, 16, 16, 3), clusters=(5, 4)))
    cli.ok("m.onnx", "--report", "r.json", *options)
    condensed = {name: after for name, (before, after) in widths("r.json").items() if after < before}
    assert condensed == expected


@pytest.mark.parametrize("option", ["--include", "--exclude", "--layer-threshold"])
def test_a_glob_without_a_match(cli: Cli, save: Save, option: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    message = cli.fails(2, "m.onnx", option, "conv*=0.9" if option == "--layer-threshold" else "conv*")
    assert option in message
    assert "conv*" in message


def test_layer_thresholds(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 16, 3), clusters=(5, 4), noise=0.02))
    cli.ok("m.onnx", "--layer-threshold", "w0=1", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 16), "fc1": (16, 4)}
    cli.ok(
        "m.onnx",
        "--layer-threshold",
        "fc*=1",
        "--layer-threshold",
        "fc0=0.9",
        "--report",
        "r.json",
        "--force",
    )
    assert widths("r.json") == {"fc0": (16, 5), "fc1": (16, 16)}
    cli.ok("m.onnx", "--threshold", "1", "--layer-threshold", "fc1=0.88", "--report", "r.json", "--force")
    assert widths("r.json") == {"fc0": (16, 16), "fc1": (16, 4)}


# ---------------------------------------------------------------------- errors and tolerance


def test_what_cannot_be_met_writes_nothing(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    message = cli.fails(1, "m.onnx", "--budget", "params=0.01", "--plan", "p.json", "--report", "r.json")
    assert "--budget cannot be met" in message
    assert "nothing is written" in message


def test_tolerance_is_met_by_merging_less(cli: Cli, save: Save) -> None:
    save(builders.noisy())
    cli.ok("m.onnx", "--threshold", "0.88", "--report", "free.json")
    error = read("free.json")["verification"]["approximation_error"]
    bound = error / 3
    cli.ok("m.onnx", "--tolerance", str(bound), "--report", "bound.json", "--force")
    assert 0 < read("bound.json")["verification"]["approximation_error"] <= bound < error
    free, bounded = (sum(after for _, after in widths(f"{n}.json").values()) for n in ("free", "bound"))
    assert free < bounded < 48
    cli.ok("verify", "m.onnx", OUT, "--tolerance", str(bound))


def test_tolerance_that_is_met_anyway_changes_nothing(cli: Cli, save: Save) -> None:
    save(builders.noisy())
    cli.ok("m.onnx", "--threshold", "0.88", "--report", "free.json")
    cli.ok("m.onnx", "--tolerance", "10", "--report", "bound.json", "--force")
    assert widths("free.json") == widths("bound.json")


def test_tolerance_zero_can_always_be_met(cli: Cli, save: Save) -> None:
    path = save(builders.noisy())
    cli.ok("m.onnx", "--tolerance", "0")
    assert Path(OUT).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("value", ["-1", "nan", "much"])
def test_tolerance_out_of_range(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "--tolerance" in cli.fails(2, "m.onnx", f"--tolerance={value}")
    assert "--tolerance" in cli.fails(2, "verify", "m.onnx", "m.onnx", f"--tolerance={value}")


def test_a_large_error_without_tolerance_warns(cli: Cli, save: Save) -> None:
    save(builders.noisy())
    save(builders.mlp((8, 16, 3), clusters=4), "exact.onnx")
    warned = cli.ok("m.onnx", "--threshold", "0.5", "--report", "r.json")
    assert read("r.json")["verification"]["approximation_error"] > 0.1
    assert "warning" in warned.err
    assert "--tolerance" in warned.err
    assert len(warned.err.splitlines()) == 1
    assert len(read("r.json")["warnings"]) == 1
    assert cli.ok("exact.onnx", "--report", "r.json", "--force").err == ""
    assert read("r.json")["warnings"] == []


def test_a_tolerance_above_the_error_does_not_warn(cli: Cli, save: Save) -> None:
    save(builders.noisy())
    assert cli.ok("m.onnx", "--threshold", "0.5", "--tolerance", "5").err == ""


# ---------------------------------------------------------------------- alignment


def test_alignment_rounds_conv_widths_up(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    for align, width in (("1", 5), ("4", 8), ("5", 5), ("7", 7), ("16", 16), ("32", 16)):
        cli.ok("m.onnx", "--align", align, "--report", "r.json", "--force")
        assert widths("r.json") == {"conv0": (16, width), "conv1": (16, width)}, f"--align {align}"


def test_alignment_leaves_gemm_alone(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=5))
    cli.ok("m.onnx", "--threshold", "0.88", "--align", "16", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 5)}


def test_alignment_undoes_the_merges_of_lowest_cosine(cli: Cli, save: Save) -> None:
    model = builders.convnet((3, 8), clusters=3, noise=0.15)
    save(model)
    cli.ok("m.onnx", "--threshold", "0.88", "--align", "1", "--plan", "free.json")
    cli.ok("m.onnx", "--threshold", "0.88", "--align", "5", "--plan", "aligned.json", "--force")
    free, aligned = (read(f"{name}.json")["groups"][0] for name in ("free", "aligned"))
    merged = {j for j, m in enumerate(free["main"]) if m != j}
    still = {j for j, m in enumerate(aligned["main"]) if m != j}
    assert len(merged) == 5
    assert len(still) == 3
    assert still < merged
    assert min(free["cosine"][j] for j in still) > max(free["cosine"][j] for j in merged - still)


def test_held_back_merges_are_reported_with_the_way_out(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    outcome = cli.ok("m.onnx", "--threshold", "0.88", "--align", "8", "--report", "r.json")
    assert "--align 1" in outcome.out
    assert "conv0" in outcome.out
    assert [g["held_back"] for g in read("r.json")["groups"]] == [3, 3]
    assert "--align 1" not in cli.ok("m.onnx", "--align", "1", "--force").out


def test_held_back_to_the_original_width_is_reported(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    outcome = cli.ok("m.onnx", "--threshold", "0.88", "--align", "16", "--report", "r.json")
    assert Path(OUT).read_bytes() == Path("m.onnx").read_bytes()
    assert [g["held_back"] for g in read("r.json")["groups"]] == [11, 11]
    assert "--align 1" in outcome.out


def test_automatic_alignment_is_the_hosts(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 48), clusters=5))
    cli.ok("m.onnx", "--report", "r.json", "--plan", "p.json")
    width = block_width()
    assert read("p.json")["align"] == width
    assert widths("r.json")["conv0"] == (48, -(-5 // width) * width)


@pytest.mark.parametrize("value", ["0", "-4", "some", "2.5"])
def test_bad_alignments(cli: Cli, save: Save, value: str) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "--align" in cli.fails(2, "m.onnx", f"--align={value}")
