"""What a page says: its sentences and its numbers, from documents as they are in JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from onnx_condense.flags import flags_of, written
from onnx_condense.operators.reasons import Reason
from onnx_condense.options import Options

LONGEST = 160
"""Characters of a name that a page shows."""

UNKNOWN = "not known"

FORMS = {
    "count": lambda v: f"{v:,}",
    "error": lambda v: f"{v:.3g}",
    "cosine": lambda v: f"{v:.3f}" if v > -1 else "none",
    "score": lambda v: f"{v:.4f}",
    "share": lambda v: f"{v:.1%}",
    "ms": lambda v: f"{1e3 * v:.4g}",
    "mb": lambda v: f"{v / 1e6:.1f}",
    "rate": lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.3g}",
    "plain": lambda v: f"{v:g}",
}
"""How numbers are written."""

ADVICE = {
    Reason.OUTPUT: "its channels are the answer of the model: nothing to do",
    Reason.SIZE_UNKNOWN: "state the sizes with --input-shape, or export the model with fixed ones",
    Reason.BODY_DOES_NOT_RUN: "give inputs on which it runs with --data",
    Reason.WEIGHTS_NOT_FINITE: "export it again: the file holds NaN or infinity",
    Reason.PARAMETERS_NOT_FINITE: "export it again: the file holds NaN or infinity",
    Reason.WEIGHTS_USED_ELSEWHERE: "export it with a weight of its own",
    Reason.WEIGHTS_SPARSE: "export it with dense weights",
    Reason.BATCH_STATISTICS: "export it for inference",
    Reason.RETURNS_MASK: "export it for inference",
    Reason.UNSUPPORTED: "export it with standard ONNX operators, or ask for this one",
    Reason.READ_IN_BODY: "export it without control flow where that is possible",
    Reason.OUTPUT_OF_BODY: "export it without control flow where that is possible",
    Reason.REGROUPS_BY_SIZE: "export it with fixed sizes",
    Reason.TAKES_BY_SIZE: "export it with fixed sizes",
    Reason.LONELY: "there is nothing to merge it with: nothing to do",
    Reason.ONE_CHANNEL: "there is nothing to merge it with: nothing to do",
    Reason.ONE_OUTPUT: "there is nothing to merge it with: nothing to do",
}
"""What can be done about a reason."""

OTHERS = {
    "heads": "whole heads would leave attention",
    "ties": "tables would be held once",
    "streams": "streams would lie in fewer directions",
    "pairs": "weights would become pairs of factors",
}
"""What a run does besides, by the list of a report that names where."""

STAYS = "it stays exactly as it is: nothing to do"


@dataclass(frozen=True)
class Told:
    """The title of a page, and one sentence on what was done."""

    title: str
    sentence: str


def at(pointer: str, document: Any) -> Any:
    """The value at a JSON pointer."""
    for key in pointer.split("/")[1:]:
        document = document[int(key)] if isinstance(document, list | tuple) else document[key]
    return document


def number(value: float | None, form: str) -> str:
    """A number for people."""
    return UNKNOWN if value is None else FORMS[form](value)


def exactly(value: Any) -> str:
    """A value as JSON has it."""
    return json.dumps(value)


def plain(value: Any) -> str:
    """The value of an option for people."""
    if value is None or value == [] or value == {}:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    match value:
        case str():
            return value
        case [str(kind), float(much)]:
            return f"{kind}={much:g}"
    return json.dumps(value)


def clipped(text: str, most: int = LONGEST) -> str:
    """A name, without its middle where it is long."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def advice(reason: str) -> str:
    """What can be done about a refusal."""
    return next((said for known, said in ADVICE.items() if reason.endswith(known.value)), STAYS)


def name_of(path: str | None) -> str:
    """A model's name in a sentence."""
    return clipped(PurePath(path).name) if path else "The model"


def command(document: Mapping[str, Any]) -> str:
    """The command line that the options of a report come from."""
    options, verified = document["options"], document["verification"] or {}
    words = ["onnx-condense", document["input"]["path"] or "MODEL.onnx", *_given(options)]
    if any("calibration" in group["sources"] for group in document["groups"]):
        words += ["--calibration", "INPUTS.npz"]
    elif not verified.get("generated", True):
        words += ["--data", "INPUTS.npz"]
    return shlex.join(words)


def _given(options: Mapping[str, Any]) -> Iterator[str]:
    """The options that say something else than what holds without them."""
    defaults = Options().to_json()
    for name, flag in flags_of(Options).items():
        value = options.get(name)
        decided = name == "merge" and options.get("lossless")
        if name not in defaults or value in (None, defaults[name]) or decided:
            continue
        option = written(name, flag)
        if value is True:
            yield option
        elif isinstance(value, Mapping):
            for key, sizes in value.items():
                yield from (option, f"{key}={'x'.join(map(str, sizes))}")
        elif name == "budget":
            yield from (option, f"{value[0]}={value[1]:g}")
        elif isinstance(value, list):
            for item in value:
                yield from (option, item if isinstance(item, str) else f"{item[0]}={item[1]:g}")
        else:
            yield from (option, str(value))


def of_report(document: Mapping[str, Any]) -> Told:
    """What a run did."""
    name, before, after = name_of(document["input"]["path"]), document["input"], document["output"]
    fewer = [g for g in document["groups"] if g["width_after"] < g["width_before"]]
    title = f"{name}, condensed"
    if after is None:
        groups = f"{len(fewer)} of {len(document['groups'])} groups of layers would become narrower"
        others = "".join(f"; {what}" for key, what in OTHERS.items() if document[key])
        return Told(title, f"{name} was looked at, and no model was written: {groups}{others}.")
    if before["sha256"] == after["sha256"]:
        return Told(title, f"Nothing in {name} could be condensed: the model stays as it is.")
    times = before["parameters"] / max(1, after["parameters"])
    left = f"{after['parameters']:,} of {before['parameters']:,} parameters are left"
    return Told(title, f"{name} became {times:.2g} times smaller: {left}, and {_error(document['verification'])}.")


def _error(verification: Mapping[str, Any] | None) -> str:
    error = verification and verification["approximation_error"]
    if not verification or error is None:
        return "what its outputs lost is not known"
    samples = f"{verification['samples']} {'generated' if verification['generated'] else 'given'} samples"
    measure = "relative L2" if any(o["is_float"] for o in verification["outputs"]) else "the share of labels"
    return f"its outputs changed by {error:.3g} ({measure}) on {samples}"


def of_analysis(document: Mapping[str, Any]) -> Told:
    """What was found in a model."""
    name, groups = name_of(document["model"]["path"]), document["groups"]
    most = max((g["highest_cosine"] for g in groups), default=-1)
    like = f", with channels as alike as a cosine of {most:.3f}" if most > -1 else ""
    return Told(
        f"What could be condensed in {name}", f"{name} has {len(groups)} groups of layers that can shrink{like}."
    )


def of_verification(document: Mapping[str, Any]) -> Told:
    """How two models compare."""
    limit, worst = document["tolerance"], document["worst"]
    found = UNKNOWN if worst is None else f"{worst:.3g}"
    kind = f"{document['samples']} {'generated' if document['generated'] else 'given'}"
    met = {None: "", True: f", within the tolerance {limit}", False: f", more than the tolerance {limit}"}
    sentence = f"The largest error of an output is {found} on {kind} samples{met[document['met']]}."
    return Told("Two models compared", sentence)


def of_difference(document: Mapping[str, Any]) -> Told:
    """What differs between two models."""
    first, second = (name_of(name) for name in document["models"])
    before, after = document["parameters"]
    counts = [(document["layers"], "with other weights"), (document["removed"], "gone"), (document["added"], "new")]
    told = [f"{len(nodes):,} {what}" for nodes, what in counts if nodes]
    sizes = f"{before:,} parameters became {after:,}" if before != after else f"both have {before:,} parameters"
    found = f"Nodes that differ: {', '.join(told)}" if told else "No weights and no nodes differ"
    return Told(f"From {first} to {second}", f"{found}; {sizes}.")


def of_benchmark(document: Mapping[str, Any]) -> Told:
    """How fast models are."""
    first, *others = document["batches"][0]["models"]
    where = f"on {document['cores']} cores, batch {document['batches'][0]['batch']}"
    sentence = f"{name_of(first['model'])} takes {1e3 * first['median']:.4g} ms {where}"
    for model in others:
        ratio = UNKNOWN if model["ratio"] is None else f"{model['ratio']:.3f} of that"
        unsure = "" if model["stable"] else " (too unstable to be a result)"
        sentence += f"; {name_of(model['model'])} takes {ratio}{unsure}"
    return Told("Latency", f"{sentence}.")


def of_auto(document: Mapping[str, Any]) -> Told:
    """What a loop of merging and training has done."""
    start, end = document["start"], document["result"] or document["now"]
    share = end["parameters"] / max(1, start["parameters"])
    left = f"{end['parameters']:,} of {start['parameters']:,} parameters ({share:.1%})"
    state = "ended" if document["phase"] == "done" else "has come so far"
    score = "" if end["score"] is None else f", at a score of {end['score']:.4f}"
    return Told("Merging and training in turn", f"The run {state} at {left}{score}.")
