"""Fills docs/experiments.md from the JSON files of the experiments, and draws their figures.

    pip install '.[plot]' && python tools/experiments/report.py [--check]

--check writes nothing: exit code 1 where a table is not what the files say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _marks import fill, filled
from _stages import HERE, Facts
from results import lines_of as table

Lines = list[str]

HARDWARE = ("processor", "cores")

UNDONE = "This has not run yet."

TRAININGS = (("the original", "steps", "rate"), ("after each of the paper's reductions", "retrained", "retrained_rate"))

KINDS = {
    "original": "original",
    "paper": "the paper's procedure",
    "untrained": "ours, not trained",
    "tuned": "ours, trained once",
    "svd": "SVD, not trained",
    "svd-tuned": "SVD, trained once",
    "direct": "trained directly",
    "long": "ours, trained long",
    "direct-long": "trained directly, long",
}
"""Of combustion: how a network was made -> what the table says."""

WAYS = {
    "start": "the start",
    "merged-1024": "ours, 1,024 images, not trained",
    "aligned": "ours, 1,024 images, `--align auto`, not trained",
    "tuned": "ours, trained on labels",
    "taught": "ours, distilled",
    "torch-pruning": "Torch-Pruning",
    "onnxsim": "onnxsim",
    "scratch": "as many parameters from scratch",
    "paper": "the paper's automatic reduction",
    "auto": "`auto`, calibrated",
}
"""Of CIFAR-10: the same."""

TRANSFORMERS = {
    "merged-256": "ours, 256 images",
    "merged-64": "ours, 64 images",
    "merged-0": "ours, no data",
    "channels-256": "ours, 256 images, `--widths-only`",
    "channels-0": "ours, no data, `--widths-only`",
    "torch-pruning": "Torch-Pruning",
    "onnxsim": "onnxsim",
    "svd": "truncated SVD of every matrix",
}
"""Of the vision transformer: the same."""

PEERS = ("torch-pruning", "onnxsim")


def lines_of(heads: tuple[str, ...], rows: list[Any]) -> Lines:
    """A table; a sentence where it has no rows."""
    return table(heads, rows) if rows else [UNDONE]


def content(name: str) -> Facts:
    """What an experiment left; no stages where it has not run."""
    path = HERE / f"{name}.json"
    found: Facts = json.loads(path.read_text()) if path.exists() else {"stages": {}, "host": {}, "settings": {}}
    return found


def kind_of(name: str) -> str:
    """How a network was made, of its name."""
    return name.rpartition("-")[0] or name


def _spent(facts: Facts, key: str) -> float:
    """Seconds of a stage; the epochs of one that was gone on with were longer than its end."""
    epochs = sum(row[key] for row in facts.get("log", []) if key in row)
    return float(max(facts["seconds"][key], epochs))


def machine(name: str) -> Lines:
    """Where it ran, and for how long."""
    found = content(name)
    if not found["stages"]:
        return [UNDONE]
    hours, cpu = (sum(_spent(facts, key) for facts in found["stages"].values()) / 3600 for key in ("wall", "cpu"))
    versions = ", ".join(f"{package} {value}" for package, value in found["host"].items() if package not in HARDWARE)
    where = f"{found['host']['processor']}, {found['host']['cores']} cores, shared with other work"
    seed = found["settings"]["seed"]
    return [f"Seed {seed}; {cpu:.2f} hours of processor, {hours:.1f} hours of wall; {where}; {versions}."]


# ---------------------------------------------------------------------------------------------------- combustion


def trained() -> Lines:
    """How long networks are trained."""
    plan = content("combustion")["settings"]
    if not plan:
        return [UNDONE]
    rows = [(what, f"{plan[steps]:,}", plan["batch"], f"{plan[rate]:g}") for what, steps, rate in TRAININGS]
    return lines_of(("training", "steps", "states a step", "learning rate"), rows)


def reductions() -> Lines:
    """The paper's table 1, of our run."""
    stages = content("combustion")["stages"]
    rows = []
    for number in (1, 2, 3):
        facts = stages.get(f"paper-{number}")
        if facts is not None:
            what = f"layer {facts['layer']} at {facts['threshold']}"
            losses = [f"{facts[key]:.4f}" for key in ("before", "reduced", "loss")]
            widths = "-".join(map(str, facts["widths"][:-1]))
            rows.append((what, widths, f"{facts['share']:.1%}", *losses))
    return lines_of(
        ("reduction", "hidden widths", "weights left", "loss before", "right after", "after training"), rows
    )


def delays() -> Lines:
    """Every network that was judged."""
    stages = content("combustion")["stages"]
    return lines_of(
        ("network", "weights", "loss of one step", "delay: mean error", "worst", "not ignited", "mean gap of T [K]"),
        [_judged(name, stages[name], facts) for name, facts in _all_judged(stages)],
    )


def _all_judged(stages: Facts) -> Iterator[tuple[str, Facts]]:
    order = list(KINDS)
    names = [name.removeprefix("judged-") for name in stages if name.startswith("judged-")]
    for name in sorted(names, key=lambda name: (order.index(kind_of(name)), -stages[name]["share"])):
        yield name, stages[f"judged-{name}"]


def _judged(name: str, made: Facts, found: Facts) -> tuple[object, ...]:
    errors = [
        f"{found['delay_error']:.1%}",
        f"{found['worst']:.0%}",
        f"{found['not_ignited']} of {len(found['delays'])}",
    ]
    what = KINDS[kind_of(name)] + (f", reduction {name[-1]}" if kind_of(name) == "paper" else "")
    return what, f"{made['share']:.1%}", f"{found['loss']:.4f}", *errors, f"{found['temperature_gap']:.0f}"


def stepping() -> Lines:
    """What a step costs Cantera, in both ways, and the networks."""
    stages = content("combustion")["stages"]
    if "integrated" not in stages:
        return [UNDONE]
    ahead, again = (f"{stages['integrated'][key]:.0f} µs" for key in ("microseconds_ahead", "microseconds_again"))
    rows = [("Cantera, going ahead continuously", 1, ahead), ("Cantera, starting anew at every step", 1, again)]
    for name, facts in _all_judged(stages):
        if name == "original" or kind_of(name) == "tuned":
            count = len(facts["delays"])
            what = f"{KINDS[kind_of(name)]}, {stages[name]['share']:.0%}"
            rows.append((what, count, f"{facts['microseconds'] / count:.0f} µs"))
    return lines_of(("a step of one state by", "states at a time", "processor"), rows)


# ---------------------------------------------------------------------------------------------------- CIFAR-10


def epochs(name: str) -> Lines:
    """The start's training."""
    log = content(name)["stages"].get("start", {}).get("log", [])
    rows = [(row["epoch"], row["loss"], f"{100 * row['held']:.1f}", row["cpu"], row["wall"]) for row in log]
    return lines_of(("epoch", "loss", "accuracy, % (2,000 that validate)", "CPU s", "s"), rows)


def merges() -> Lines:
    """Accuracy without training: rows of shares, columns of images."""
    stages = content("cifar10")["stages"]
    found = {tuple(name.split("-")[1:]): facts for name, facts in stages.items() if name.startswith("merged-")}
    images, shares = (sorted({key[side] for key in found}, key=float) for side in (0, 1))
    rows = [
        (f"{float(share):.1%}", *(_percent(found.get((count, share)), "held") for count in images))
        for share in reversed(shares)
    ]
    return lines_of(("parameters", *(f"{count} images" if count != "0" else "no data" for count in images)), rows)


def _percent(facts: Facts | None, key: str) -> str:
    return "" if facts is None or key not in facts else f"{100 * facts[key]:.1f}"


def others() -> Lines:
    """The other start, without training."""
    stages = content("cifar10")["stages"]
    rows = [
        (f"{facts['share']:.1%}", _percent(facts, "held"), _percent(stages.get(f"tested-{name}"), "test"))
        for name, facts in stages.items()
        if name.startswith("other-")
    ]
    return lines_of(("parameters", "accuracy, %, 2,000 that validate", "5,000 test images"), rows)


def trainings() -> Lines:
    """All networks that may be trained on, as they were before and are after."""
    stages = content("cifar10")["stages"]
    rows = []
    for name, facts in stages.items():
        kind = next((kind for kind in WAYS if name == kind or name.startswith(f"{kind}-")), None)
        if kind is not None and "share" in facts:
            spent = len(facts.get("log", [])) or facts.get("steps", 0)
            untold = ", not trained" if kind in PEERS and not spent else ""
            way = WAYS[kind] + (", gently" if name.endswith("-gentle") else untold)
            test = _percent(stages.get(f"tested-{name}"), "test")
            rows.append((way, f"{facts['share']:.1%}", spent, _percent(facts, "held"), test))
    return lines_of(("network", "parameters", "epochs (steps)", "accuracy, %, that validate", "test"), rows)


def transformers() -> Lines:
    """What each method keeps of the vision transformer: images that validate, and test images."""
    stages = content("vit")["stages"]
    shares = sorted({name.rpartition("-")[2] for name in stages if name.startswith("merged-")}, key=float, reverse=True)
    rows = [("the start", *[_both(stages, "start")] * len(shares))] if shares else []
    for kind, way in TRANSFORMERS.items():
        if any(f"{kind}-{share}" in stages for share in shares):
            rows.append((way, *(_both(stages, f"{kind}-{share}") for share in shares)))
    return lines_of(("method", *(f"{float(share):.0%} of the parameters" for share in shares)), rows)


def _both(stages: Facts, name: str) -> str:
    found = [_percent(stages.get(stage), key) for stage, key in ((name, "held"), (f"tested-{name}", "test"))]
    return ", ".join(filter(None, found)) or "–"


def rounds() -> Lines:
    """Where each round of an automatic reduction led, and where it ended."""
    stages = content("cifar10")["stages"]
    whole = stages["start"]["parameters"]
    rows = []
    for name in ("paper", "auto"):
        facts = stages.get(name, {"rounds": []})
        for number, found in enumerate(facts["rounds"], 1):
            rows.append(
                (WAYS[name], number, f"{found['parameters'] / whole:.1%}", found["steps"], _percent(found, "score"))
            )
        if facts.get("end") not in (None, "done"):
            rows.append((WAYS[name], "not whole", f"{facts['share']:.1%}", facts["steps"], _percent(facts, "held")))
    return lines_of(("reduction", "round", "parameters", "steps", "accuracy, %, that validate"), rows)


def races(name: str) -> Lines:
    """Latencies against the original's."""
    stages = content(name)["stages"]
    rows = [
        (row["network"], row["batch"], row["threads"], *_ratio(row), "" if row["stable"] else "too unstable")
        for stage, facts in stages.items()
        if stage.startswith("raced")
        for row in facts["rows"]
    ]
    return lines_of(("network", "batch", "threads", "ms", "ratio to the original's latency", "note"), rows)


def _ratio(row: Facts) -> tuple[str, str]:
    return f"{row['milliseconds']:.2f}", f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"


TABLES: dict[str, Callable[[], Lines]] = {
    "combustion-machine": lambda: machine("combustion"),
    "combustion-steps": trained,
    "combustion-reductions": reductions,
    "combustion-delays": delays,
    "combustion-stepping": stepping,
    "combustion-races": lambda: races("combustion"),
    "cifar10-machine": lambda: machine("cifar10"),
    "cifar10-start": lambda: epochs("cifar10"),
    "cifar10-merges": merges,
    "cifar10-others": others,
    "cifar10-trainings": trainings,
    "cifar10-rounds": rounds,
    "cifar10-races": lambda: races("cifar10"),
    "vit-machine": lambda: machine("vit"),
    "vit-start": lambda: epochs("vit"),
    "vit-smaller": transformers,
    "vit-races": lambda: races("vit"),
}


def main() -> int:
    """Fills or checks the tables; draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given: Any = parser.parse_args()
    if given.check:
        stale = [mark for mark, make in TABLES.items() if filled(mark) != make()]
        for mark in stale:
            print(f"{mark} is not what the files say: run python tools/experiments/report.py")
        return int(bool(stale))
    from _figures import draw

    for mark, make in TABLES.items():
        fill(mark, make())
    draw(content("combustion"), content("cifar10"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
