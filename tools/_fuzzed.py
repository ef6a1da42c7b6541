"""What must hold of a random graph: the checks of tools/fuzz_graphs.py, and how a failing graph is made smaller."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _forked import run
from _outputs import differ, runner
from _replayed import Unread, replayed, stated
from numpy.typing import NDArray
from support.wider_graphs import SIZES, feed

from onnx_condense.merging.plan import Plan
from onnx_condense.options import Options
from onnx_condense.planning.again import again
from onnx_condense.planning.replay import replayed as own_twin
from onnx_condense.prepare import Clock, open_model
from onnx_condense.rewriting.writer import write

Feed = dict[str, NDArray[np.float32]]

LOSSLESS = ("--lossless", "--align", "1")
CLOSE = 1e-4
"""Least relative error that counts, of a condensed model and its twin; more where the original itself is unsteady."""
LITTLE = (3e-7, 1e-6, 3e-6)
UNSTEADY = 30
"""Times what the outputs change where inputs change by so little: a difference up to there is rounding."""
HUGE = 1e4
ASKING = {"IsNaN", "IsInf"}
"""Operators that make numbers of what became of an infinity: of channels that are not read it is no number."""
LOST = 1e-3
"""What a run without loss may say to have lost by rounding; above its own limit it writes nothing."""


@dataclass
class Found:
    """What came of a graph: an outcome per run, and faults by kind."""

    outcomes: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    replayed: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"outcomes": self.outcomes, "faults": self.faults, "replayed": self.replayed}


def options_of(seed: int) -> tuple[str, ...]:
    """Random options of a run that changes the function."""
    draw = random.Random(seed)
    goal = draw.choice([*["threshold"] * 6, "budget", "tolerance", "layers", "layers"])
    given = {
        "threshold": ("--threshold", draw.choice(["0.5", "0.7", "0.9"])),
        "budget": ("--budget", draw.choice(["params=0.6", "macs=0.7", "params=0.85"])),
        "tolerance": ("--tolerance", draw.choice(["0.05", "0.3"])),
        "layers": ("--layer-threshold", "layer1*=0.6", "--threshold", "0.95"),
    }[goal]
    merge = ("--merge", draw.choice(["auto", "ratio", "delete", "moments"]))
    others = [(), (), ("--sequential",), ("--depthwise", "kernel")]
    if goal == "budget":
        others = [()]
    return (*given, *merge, *draw.choice(others), "--align", draw.choice(["1", "1", "4"]))


def checked(model: onnx.ModelProto, seed: int, folder: Path, options: tuple[str, ...] | None = None) -> Found:
    """Runs a graph without loss, and with other options, and checks all that must hold."""
    found = Found()
    if not runs_at_all_sizes(model):
        return found
    source = folder / "model.onnx"
    source.write_bytes(model.SerializeToString())
    compared(found, "lossless", model, source, LOSSLESS, seed)
    if options is None:
        options = options_of(seed)
    compared(found, "lossy", model, source, options, seed)
    return found


def _lost(line: str) -> float:
    """What a run without loss that failed says to have lost."""
    found = re.search(r"--lossless changed the outputs by (\S+),", line)
    return float(found[1]) if found else 0.0


def is_rounding(source: Path, lost: float) -> bool:
    """Whether rounding may change the outputs of a model by that; where it is much, on inputs of the command line."""
    if lost <= LOST:
        return True
    reference, opened = runner(onnx.load(source)), open_model(source, Options())
    shaken = (_shaken(reference, inputs, reference(inputs)) for inputs in (*opened.feeds, *opened.others))
    return lost <= UNSTEADY * max(shaken)


def runs_at_all_sizes(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime runs a graph; where the generator drew what it refuses, there is nothing to check.

    Its optimizations can break a graph (1.32 moves a Mul by a number into one of the MatMuls that read it).
    """
    try:
        runner(model, optimized=True)
        run = runner(model)
        for sizes in SIZES:
            run(feed(model, sizes, 0))
    except Exception:  # of onnxruntime or onnx, whose classes share no base; how many did not run is counted
        return False
    return True


def compared(
    found: Found, name: str, model: onnx.ModelProto, source: Path, options: tuple[str, ...], seed: int
) -> None:
    out, plan = (source.with_name(f"{name}{end}") for end in (".onnx", ".json"))
    done = run(source, "-o", out, "--plan", plan, "--quiet", "--force", *options)
    if done.fault:
        found.faults[f"{name}, internal"] = done.fault
        return
    if done.code:
        found.outcomes[name] = done.line
        if done.code == 2 or "please report" in done.line or not is_rounding(source, _lost(done.line)):
            found.faults[f"{name}, exit {done.code}"] = done.line
        return
    changed = out.read_bytes() != source.read_bytes()
    found.outcomes[name] = "condensed" if changed else "kept"
    if not changed:
        return
    small = runner(onnx.load(out))
    said = Plan.load(plan)
    opened = again(open_model(source, Options(), replay=said), said, Clock(None), proved=False)
    others = {"twin": write(own_twin(opened.trace, said), {}, expanded=True).model}
    try:
        others["plan"] = replayed(opened.trace, stated(plan))
        found.replayed = "yes"
    except Unread as unread:
        found.replayed = str(unread)
    others = {other: proto for other, proto in others.items() if _is_like(proto, model)}
    if name == "lossless":
        others["original"] = model
    references = {other: runner(proto) for other, proto in others.items()}
    for size, inputs, plain in feeds(model, seed):
        made = small(inputs)
        for other, reference in references.items():
            problem = _apart(reference, made, inputs, plain)
            if problem:
                found.faults.setdefault(f"{name}, {other}", f"{size}: {problem}")


def _is_like(proto: onnx.ModelProto, model: onnx.ModelProto) -> bool:
    """Whether a model has the same inputs and outputs, and no others of bodies that lie beside its graph."""
    return all(
        [port.name for port in one] == [port.name for port in other]
        for one, other in ((proto.graph.input, model.graph.input), (proto.graph.output, model.graph.output))
    )


def feeds(model: onnx.ModelProto, seed: int) -> Iterator[tuple[str, Feed, Feed | None]]:
    """Inputs of three sizes, and extreme ones: zeros, huge, with an infinity, with what is no number.

    With the latter two, which no graph gets that asks for them, comes what they were before one element was replaced.
    """
    for number, sizes in enumerate(SIZES):
        yield f"size {number}", feed(model, sizes, seed + number), None
    base = feed(model, SIZES[0], seed)
    yield "zeros", _floats(base, np.zeros_like), None
    yield "huge", _floats(base, lambda array: array * np.float32(HUGE)), None
    if any(node.op_type in ASKING for node in model.graph.node):
        return
    for name, value in (("infinity", np.inf), ("no number", np.nan)):
        yield name, _floats(base, partial(_with, value=value)), base


def _floats(inputs: Feed, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Feed:
    """The inputs, changed where they are no integers, which may be rows of a table."""
    return {name: change(array) if array.dtype.kind == "f" else array for name, array in inputs.items()}


def _with(array: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    """The array with its first element replaced."""
    changed = array.copy()
    changed.reshape(-1)[:1] = value
    return changed


def _apart(reference: Callable[[Feed], list[Any]], made: list[Any], inputs: Feed, plain: Feed | None) -> str:
    """How a model's outputs are apart from those of its reference, beyond rounding.

    With an infinity in the inputs, or what is no number, only lines along the first axis are compared that it does not
    reach: the reference multiplies it with zeros where the condensed model has no channel. `plain`: the inputs without.
    """
    expected = reference(inputs)
    if plain is not None:
        shapes = [a.shape for a in made], [a.shape for a in expected]
        if shapes[0] != shapes[1]:
            return f"shapes {shapes[0]} instead of {shapes[1]}"
        far = [_floats(plain, partial(_with, value=other)) for other in (np.inf, 100.0, -100.0)]
        runs = [reference(one) for one in (plain, inputs, *far)]
        clear = [_clear(values) for values in zip(*runs, strict=True)]
        expected, made = ([a[lines] for lines, a in zip(clear, side, strict=True)] for side in (expected, made))
        inputs, whole = plain, runs[0]
    else:
        whole = expected
    apart = differ(expected, made, CLOSE)
    return apart and differ(expected, made, max(CLOSE, UNSTEADY * _shaken(reference, inputs, whole)))


def _clear(values: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """[n] lines along the first axis that are the same in all values of an output."""
    first = values[0].reshape(len(values[0]), -1)
    return np.all([(first == other.reshape(first.shape)).all(1) for other in values[1:]], axis=0)


def _shaken(reference: Callable[[Feed], list[Any]], inputs: Feed, expected: list[Any]) -> float:
    """By what outputs change at most where inputs change by one of `LITTLE`."""
    factors = [np.float32(1 + little) for little in LITTLE]
    others = [reference(_floats(inputs, lambda array, factor=factor: array * factor)) for factor in factors]
    return max(max(map(_change, expected, other)) for other in others)


def _change(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Relative L2 of two outputs, where they are finite."""
    whole = np.isfinite(a) & np.isfinite(b)
    size = float(np.linalg.norm(a[whole].astype(float)))
    return float(np.linalg.norm(a[whole].astype(float) - b[whole])) / max(size, 1e-30)


# ---------------------------------------------------------------------------------------------------- smaller


def smaller(model: onnx.ModelProto, fails: Callable[[onnx.ModelProto], bool], tries: int = 120) -> onnx.ModelProto:
    """A model of fewer nodes that fails as well."""
    left, shrinks = tries, True
    while shrinks and left > 0:
        shrinks = False
        for candidate in _candidates(model):
            left -= 1
            if left <= 0:
                break
            if _runs(candidate) and fails(candidate):
                model, shrinks = candidate, True
                break
    return model


def _candidates(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model that ends earlier, and the model without one node, whose input stands for its output."""
    count = len(model.graph.node)
    for index in range((count - 1) // 2, count - 1):
        yield _ended(model, index)
    for index in reversed(range(count)):
        for position in range(min(2, len(model.graph.node[index].input))):
            yield _without(model, index, position)


def _ended(model: onnx.ModelProto, index: int) -> onnx.ModelProto:
    made = model.graph.node[index].output[0]
    shorter = onnx.ModelProto()
    shorter.CopyFrom(model)
    del shorter.graph.output[:]
    shorter.graph.output.append(onnx.ValueInfoProto(name=made))
    return _pruned(shorter)


def _without(model: onnx.ModelProto, index: int, position: int) -> onnx.ModelProto:
    shorter = onnx.ModelProto()
    shorter.CopyFrom(model)
    gone = shorter.graph.node[index]
    source, made = gone.input[position], set(gone.output)
    del shorter.graph.node[index]
    for node in shorter.graph.node:
        for place, name in enumerate(node.input):
            if name in made:
                node.input[place] = source
    for port in shorter.graph.output:
        if port.name in made:
            port.CopyFrom(onnx.ValueInfoProto(name=source))
    return _pruned(shorter)


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what no output needs."""
    needed = {port.name for port in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    tensors = [t for t in model.graph.initializer if t.name in needed]
    ports = [p for p in model.graph.input if p.name in needed]
    for field_, values in (("node", kept[::-1]), ("initializer", tensors), ("input", ports)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        part: Any = getattr(model.graph, field_)
        del part[:]
        part.extend(copies)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def _runs(model: onnx.ModelProto) -> bool:
    """Whether it has inputs and outputs, and shapes that fit."""
    if not model.graph.input or not model.graph.node:
        return False
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # of onnxruntime or onnx, whose classes share no base; how many did not run is counted
        return False
    made: Mapping[str, Any] = {name: 1 for node in model.graph.node for name in node.output}
    return all(port.name in made for port in model.graph.output)
