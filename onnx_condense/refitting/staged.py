"""A model that runs part by part, as far as each consumer, so that no node runs twice on the same inputs.

Chains are what is sent to workers. Each goes on from the tensors that it has left in their memory, or from the inputs
where there are none: the segments are the same, and so is every bit of what they compute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any
from uuid import uuid4

import onnx

from onnx_condense.arrays import Array
from onnx_condense.model.inputs import Feed
from onnx_condense.model.parts import needed, prefix, with_inputs
from onnx_condense.model.protos import read_by
from onnx_condense.model.rebuilt import Part
from onnx_condense.model.runtime import run, session, to_bytes

MEMORY = 2**28
"""Bytes of tensors that one process keeps for chains to go on from."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Nodes that follow each other. model: their bytes, none where nothing is left to compute.

    reads, makes: tensors. leaves: those that later segments or the caller read, of all that are known then.
    """

    model: bytes
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    leaves: tuple[str, ...]

    def open(self, known: Mapping[str, Array]) -> Any:
        """A session for tensors of these types and of any shape. Raises InputError."""
        if not self.model:
            return None
        return session(with_inputs(self.model, {name: known[name] for name in self.reads}), pooled=False)

    def run(self, active: Any, known: Mapping[str, Array]) -> Mapping[str, Array]:
        """What is known after it, tensors of any shape: no inputs of copies of bodies, which nobody gives.

        Raises InputError.
        """
        fed = {name: known[name] for name in self.reads}
        found = dict(zip(self.makes, run(active, self.makes, fed), strict=True)) if active is not None else {}
        whole = {**known, **found}
        return {name: whole[name] for name in self.leaves if name in whole}


def between(model: onnx.ModelProto, reads: str, leaves: Sequence[str]) -> Segment:
    """What is between a tensor and others, which may be the same."""
    makes = tuple(dict.fromkeys(name for name in leaves if name != reads))
    return Segment(to_bytes(prefix(model, makes, {reads})) if makes else b"", (reads,), makes, tuple(leaves))


@dataclass(frozen=True, eq=False)
class Chain:
    """Segments of a model, as far as some tensors.

    key: of the model that they belong to. memory: bytes of tensors that a process keeps for such chains.
    """

    key: str
    segments: tuple[Segment, ...]
    memory: int = MEMORY

    def __call__(self, place: int, feeds: Sequence[Feed]) -> Iterator[Mapping[str, Array]]:
        """Those tensors, feed by feed; `place` tells these feeds from others. Raises InputError."""
        sessions: dict[int, Any] = {}
        for index, feed in enumerate(feeds):
            done, known = REMAINS.get((self.key, place, index), (0, feed))
            if done > len(self.segments):  # a task that comes late: another worker has done it, the next ones followed
                done, known = 0, feed
            for number, segment in enumerate(self.segments[done:], done):
                if number not in sessions:
                    sessions[number] = segment.open(known)
                known = segment.run(sessions[number], known)
            REMAINS.put((self.key, place, index), (len(self.segments), known), self.memory)
            yield known


class Cutter:
    """Makes the chain of a model longer, from consumer to consumer.

    Nodes of earlier segments must not change when the model is written again. `kept`: tensors that segments may leave
    for later ones; others are computed again. `memory`: see `Chain`.
    """

    def __init__(self, model: onnx.ModelProto, kept: Iterable[str], memory: int = MEMORY) -> None:
        self._kept = set(kept)
        self._known = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
        self._done: set[str] = set()
        self.chain = Chain(uuid4().hex, (), memory)

    def part(self, names: Collection[str]) -> Part:
        """The part of a model that `reach` asks for."""
        return names, frozenset(self._known)

    def reach(self, model: onnx.ModelProto, names: Collection[str]) -> Chain:
        """The chain up to these tensors. Raises InputError where a segment is larger than protobuf allows."""
        missing = [name for name in dict.fromkeys(names) if name not in self._known]
        nodes = needed(model, missing, self._known)
        made = {name for node in nodes for name in node.output if name}
        self._done |= made
        later = read_by(node for node in model.graph.node if not self._done.intersection(node.output))
        leaves = (self._known | (made & self._kept)) & later | set(names)
        makes = tuple(sorted(made & leaves))
        reads = tuple(sorted(self._known & read_by(nodes)))
        content = to_bytes(prefix(model, makes, self._known)) if makes else b""
        self._known = leaves
        segment = Segment(content, reads, makes, tuple(sorted(leaves)))
        self.chain = replace(self.chain, segments=(*self.chain.segments, segment))
        return self.chain

    def close(self) -> None:
        """Gives back what the chain has left in the memory of this process."""
        REMAINS.forget(self.chain.key)


Key = tuple[str, int, int]
"""A chain, the place of the feeds and which of them."""

Entry = tuple[int, Mapping[str, Array]]
"""How many segments have been run, and what they have left."""


class Remains:
    """Tensors that chains go on from; where there are too many, those of other chains go first."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._sizes: dict[Key, int] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """For how many feeds of how many chains there is something."""
        return len(self._entries)

    def get(self, key: Key, default: tuple[int, Feed]) -> Entry:
        """What there is, else the default."""
        return self._entries.get(key, default)

    def put(self, key: Key, entry: Entry, limit: int) -> None:
        """Keeps tensors, as long as all of them have no more bytes than the limit; else what was left before them."""
        size = sum(value.nbytes for value in entry[1].values())
        with self._lock:
            if self._with(key, size) > limit:
                self._drop([other for other in self._entries if other[0] != key[0]])
            if self._with(key, size) <= limit:
                self._entries[key], self._sizes[key] = entry, size

    def _with(self, key: Key, size: int) -> int:
        """Bytes of all, where so many are kept under a key."""
        return size + sum(self._sizes.values()) - self._sizes.get(key, 0)

    def forget(self, chain: str) -> None:
        """Gives back what a chain has left."""
        with self._lock:
            self._drop([key for key in self._entries if key[0] == chain])

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._entries.pop(key, None)
            self._sizes.pop(key, None)


REMAINS = Remains()
"""What this process keeps."""
