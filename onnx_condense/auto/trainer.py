"""The trainer's contract: a command or a Python object that trains and scores models; what comes back is checked."""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_condense import processes
from onnx_condense.auto.folder import AGAIN, FAILED, RECORD
from onnx_condense.errors import InputError, TrainerError, UsageError, first_line
from onnx_condense.model import files, wire
from onnx_condense.model.protos import serialize, tensors
from onnx_condense.operators.queries import is_constant_value

Metrics = Mapping[str, Any]
"""What a trainer says of a model: {"score": higher is better, anything else}."""

STEPS_DONE = "ONNX_CONDENSE_STEPS_DONE"
"""Set for the command: training steps since the last reduction, for schedules of its own."""

ROOM = 2**20
"""Bytes that a call needs on the disk beside its two models."""

LONGEST = 300
"""Characters of a further metric that the journal keeps."""

ADVICE = "write the trained weights into a copy of --model, and change nothing else"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Trainer(Protocol):
    """What the loop needs of a trainer. Any exception counts as a failed call.

    The same call on the same model must give the same result if an interrupted run is to end like an undisturbed one:
    take the seed from the weights, not from the clock. Nothing but the models passes from call to call.
    """

    def train(
        self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int
    ) -> tuple[onnx.ModelProto, Metrics]:
        """Trains a model and scores the result.

        Args:
            model: may be changed in place.
            steps: of training; what a step is (a batch, an epoch) is the trainer's affair.
            learning_rate: the one for these steps, falling as reductions are made.
            done: steps since the last reduction.

        Returns:
            The same graph with other weights, and {"score": …}.
        """

    def evaluate(self, model: onnx.ModelProto) -> Metrics:
        """Scores a model: {"score": …}, higher is better."""


class CommandTrainer:
    """A trainer that is a program.

    It is called as `CMD --model in.onnx --output out.onnx --steps N --learning-rate LR --metrics metrics.json`, with
    `--evaluate-only` where it is not to train.
    """

    def __init__(self, command: str, scratch: Path, log: Path, timeout: float | None = None) -> None:
        """Raises UsageError for a command that cannot be read.

        Args:
            command: words as in a shell; it runs in the current folder, without a shell.
            scratch: where the files of a call go, each call in a folder of its own.
            log: gets what the last call printed.
            timeout: seconds that a call may take, then its whole process group is killed; None for no limit.
        """
        try:
            self.command = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--trainer {command} cannot be read ({error}): check its quotes") from error
        if not self.command:
            raise UsageError("--trainer is empty: pass the command that trains")
        self.scratch, self.log, self.timeout = scratch, log, timeout

    def train(
        self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int
    ) -> tuple[onnx.ModelProto, Metrics]:
        """See Trainer. Raises TrainerError."""
        with self._folder(model) as folder:
            output = folder / "out.onnx"
            metrics = self._call(folder, model, steps, learning_rate, done)
            if not output.exists():
                raise TrainerError("the trainer wrote no model: it must write --output")
            try:
                return files.load(output, hold=False).proto, metrics
            except InputError as error:
                raise TrainerError(f"the trainer's model cannot be read: {error}") from error

    def evaluate(self, model: onnx.ModelProto) -> Metrics:
        """See Trainer. Raises TrainerError."""
        with self._folder(model) as folder:
            return self._call(folder, model, 0, 0.0, 0, "--evaluate-only")

    @contextmanager
    def _folder(self, model: onnx.ModelProto) -> Iterator[Path]:
        """A folder for one call. Raises InputError where the disk is full: that is not the trainer's fault."""
        try:
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                yield Path(folder)
        except OSError as error:
            raise InputError(f"cannot write in {self.scratch} ({error.strerror}): {AGAIN}") from error
        except TrainerError as error:
            if shutil.disk_usage(self.scratch).free < ROOM + 2 * wire.size(model):
                raise InputError(f"the disk that holds {self.scratch} is full: {AGAIN}") from error
            raise

    def _call(
        self, folder: Path, model: onnx.ModelProto, steps: int, learning_rate: float, done: int, *more: str
    ) -> Metrics:
        files = {"--model": folder / "in.onnx", "--output": folder / "out.onnx", "--metrics": folder / "metrics.json"}
        files["--model"].write_bytes(serialize(model))
        numbers = {"--steps": str(steps), "--learning-rate": repr(learning_rate)}
        pairs = {name: str(path.absolute()) for name, path in files.items()} | numbers
        command = [*self.command, *(word for pair in pairs.items() for word in pair), *more]
        processes.run(
            processes.Program(command, "--trainer", self._failed),
            self.log,
            record=self.scratch / RECORD,
            timeout=self.timeout,
            more={STEPS_DONE: str(done)},
        )
        try:
            content = json.loads(files["--metrics"].read_text())
        except FileNotFoundError as error:
            raise TrainerError('the trainer wrote no metrics: it must write {"score": …} to --metrics') from error
        except (ValueError, RecursionError) as error:
            raise TrainerError(f"the trainer's metrics are no JSON ({first_line(error)})") from error
        return content if isinstance(content, Mapping) else {}

    def _failed(self, what: str) -> TrainerError:
        kept = self.log.replace(self.log.with_name(self.log.name + FAILED))
        return TrainerError(f"the trainer {what}; all that it printed is in {kept}")


class Checked:
    """A trainer whose answers are checked, and that is asked again after a failure."""

    def __init__(self, trainer: Trainer, retries: int) -> None:
        self._trainer, self._retries = trainer, retries

    def train(
        self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int
    ) -> tuple[onnx.ModelProto, float, dict[str, Any]]:
        """(trained model, score, further metrics). Raises TrainerError when every call failed."""

        def call() -> tuple[onnx.ModelProto, float, dict[str, Any]]:
            given = onnx.ModelProto()
            given.CopyFrom(model)
            trained, metrics = self._trainer.train(given, steps, learning_rate, done)
            check_weights_only(model, trained)
            return trained, score_of(metrics), further(metrics)

        return self._asked(call)

    def evaluate(self, model: onnx.ModelProto) -> tuple[float, dict[str, Any]]:
        """(score, further metrics). Raises TrainerError when every call failed."""

        def call() -> tuple[float, dict[str, Any]]:
            metrics = self._trainer.evaluate(model)
            return score_of(metrics), further(metrics)

        return self._asked(call)

    def _asked(self, call: Callable[[], _T]) -> _T:
        for left in range(self._retries, -1, -1):
            try:
                return call()
            except (UsageError, InputError):  # not the trainer's doing: it cannot be started, or the disk is full
                raise
            except Exception as error:  # a Python trainer may raise anything
                known = isinstance(error, TrainerError)
                text = str(error) if known else f"the trainer raised {type(error).__name__}: {first_line(error)}"
                if not left:
                    raise TrainerError(text) from error
                _log.warning("%s; calling it again", text)
        raise AssertionError("retries are not negative")


def score_of(metrics: Any) -> float:
    """The score among a trainer's metrics. Raises TrainerError."""
    score = metrics.get("score") if isinstance(metrics, Mapping) else None
    if isinstance(score, bool) or not isinstance(score, int | float | np.number):
        raise TrainerError(f'the trainer gave no score: its metrics must hold {{"score": number}}, not {score!r}')
    try:
        found = float(score)
    except OverflowError:  # of a whole number
        found = math.inf
    if not math.isfinite(found):
        raise TrainerError(f"the trainer's score is {found}: did training diverge? lower --learning-rate")
    return found


def further(metrics: Metrics) -> dict[str, Any]:
    """The other metrics that the journal keeps: short text and finite numbers."""
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in metrics.items() if k != "score"}
    return {name: value for name, value in plain.items() if _is_short(value)}


def _is_short(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= LONGEST)


def check_weights_only(sent: onnx.ModelProto, back: onnx.ModelProto) -> None:
    """Raises TrainerError unless `back` is `sent` with other finite weights: same names, shapes and types, same nodes.

    Numbers that were not finite before (masks of -inf) may stay what they are.
    """
    if not isinstance(back, onnx.ModelProto):
        raise TrainerError(f"the trainer returned no model but {type(back).__name__}")
    if any(map(uses_external_data, tensors(back))):
        raise TrainerError("the trainer's model keeps weights in files that were not read: read them with onnx.load")
    if _ports(sent) != _ports(back):
        raise TrainerError(f"the trainer's model has other inputs or outputs: {ADVICE}")
    if [_node(n) for n in sent.graph.node] != [_node(n) for n in back.graph.node]:
        raise TrainerError(f"the trainer's model has other nodes: {ADVICE}")
    if {(o.domain, o.version) for o in sent.opset_import} != {(o.domain, o.version) for o in back.opset_import}:
        raise TrainerError(f"the trainer's model has another opset: {ADVICE}")
    before, after = _weights(sent), _weights(back)
    if before.keys() != after.keys():
        name = min(before.keys() ^ after.keys())
        raise TrainerError(f"the trainer's model {'lacks' if name in before else 'adds'} the weight {name}: {ADVICE}")
    for name, old in before.items():
        _check_weight(name, old, after[name])


def _check_weight(name: str, old: onnx.TensorProto, new: onnx.TensorProto) -> None:
    """Raises TrainerError unless a weight has its type and shape, and finite numbers."""
    if (old.data_type, list(old.dims)) != (new.data_type, list(new.dims)):
        raise TrainerError(
            f"the trainer's model has {name} as {_kind(new)} {list(new.dims)}, not {_kind(old)} {list(old.dims)}: "
            f"{ADVICE}"
        )
    try:
        values, originals = numpy_helper.to_array(new), numpy_helper.to_array(old)
    except Exception as error:  # a tensor whose data does not fit its shape
        raise TrainerError(f"the trainer's weight {name} cannot be read ({first_line(error)})") from error
    if values.dtype.kind in "fcV" and _worse(values, originals):
        raise TrainerError(f"the trainer's weight {name} is not finite: did training diverge? lower --learning-rate")


def _worse(values: np.ndarray[Any, Any], originals: np.ndarray[Any, Any]) -> bool:
    wide = values.astype(np.float64)
    bad = ~np.isfinite(wide)
    if not bad.any():
        return False
    return not np.array_equal(wide[bad], originals.astype(np.float64)[bad], equal_nan=True)


def _ports(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    ports = [*model.graph.input, *model.graph.output]
    return [(value.name, value.type.SerializeToString(deterministic=True)) for value in ports]


def _node(node: onnx.NodeProto) -> bytes:
    """A node without comments, and without the values of a Constant."""
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name)
    bare.input.extend(node.input)
    bare.output.extend(node.output)
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        copied = bare.attribute.add()
        copied.CopyFrom(attribute)
        copied.ClearField("doc_string")
        if is_constant_value(node, attribute):
            copied.ClearField("t")
    return bare.SerializeToString(deterministic=True)


def _weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and Constants by name; of sparse ones the values."""
    tensors = {t.name: t for t in model.graph.initializer}
    tensors |= {t.values.name: t.values for t in model.graph.sparse_initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if is_constant_value(node, attribute):
                tensors[node.output[0]] = attribute.t
    return tensors


def _kind(tensor: onnx.TensorProto) -> str:
    return onnx.TensorProto.DataType.Name(tensor.data_type).lower()
