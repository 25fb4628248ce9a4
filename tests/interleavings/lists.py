"""The world of lists: results of queries over one row, which every write moves from one list to another.

The version of the row counts its commits; its rank is the version, and its category is even or odd like
it. So each write makes all lists of these columns wrong: the change has the old and the new values. A
reader registers the shapes of its list, loads and fills by the real ``get_or_load``. A writer finds the
tags by the real ``PendingDeletes.delete``, which reads the registry of shapes after the commit, and so
does the relay. The keys of the lists, tags and shards are on one node or on two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from greenlet import getcurrent

from cachebackend.backend import query_names
from cachebackend.backend.query_names import shape_tag_name, shard_names
from cachebackend.codec import tag_record
from cachebackend.counters import Counters
from cachebackend.effects import Operation, Send, Sleep
from cachebackend.invalidation import deletes, pending_deletes, shape_registry
from cachebackend.invalidation.query_changes import ResultChange, ValueChange
from cachebackend.invalidation.shape_registry import wrong_keys_at
from cachebackend.node import Node
from cachebackend.protocol import FillOptions, ShapeEntry, get_or_load
from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedKeys
from cachebackend.query_counts import QueryCounts
from cachebackend.ring import Ring
from cachebackend.shapes import Shape, value_digest
from tests.interleavings import direct
from tests.interleavings.pages import TWO_NODES
from tests.interleavings.processes import CODEC, NAMES, OPTIONS, Process
from tests.interleavings.readers import Reader
from tests.interleavings.relaying import caches, delete_rows
from tests.interleavings.scenario import Scenario
from tests.interleavings.world import World
from tests.interleavings.writers import Writer

__all__ = ["LIST", "OTHER", "PAIR", "ListScenario", "ListWorld", "finish_rows", "relay_rows"]

SCOPE = "default"
CATEGORY, RANK = Shape(["category"], ["category"]), Shape([], ["rank"])
#: By accident: the kind of keys that it deletes, or whose content it puts back.
_EVICTED = {"evict_list": "lists", "evict_tag": "tags", "evict_shard": "shards", "evict_row": "rows"}


def values_of(version: int) -> Mapping[str, bytes]:
    """Return the digests of the row's values in a version."""
    return {"category": value_digest(str(version % 2)), "rank": value_digest(str(version))}


def tag_keys(names: Iterable[str]) -> list[bytes]:
    """Return the keys of tags, as ``RingCache.many_tag_bytes``."""
    return [name.encode() + b"\xff" for name in names]


@dataclass(frozen=True)
class ListQuery:
    """A query over the table.

    Attributes:
        name: The key of its result.
        shapes: Its shapes, one for each alias of the table.
        category: The category that it asks for.
        shard: The number of the shard in which it registers them.
    """

    name: bytes
    shapes: tuple[Shape, ...]
    category: int = 0
    shard: int = 0

    def tags(self, table: str) -> list[bytes]:
        """Return the keys of its tags."""
        found = (shape.tag(values_of(self.category)) or "" for shape in self.shapes)
        return tag_keys([shape_tag_name(SCOPE, table, tag) for tag in found])

    def fill_options(self, table: str) -> FillOptions:
        """Return the options with which its result is read."""
        shard = tag_keys(shard_names(SCOPE, table))[self.shard]
        entries = (ShapeEntry(shard, shape.id, shape.description) for shape in self.shapes)
        return FillOptions(60_000, tags=tuple(self.tags(table)), shapes=tuple(entries))


LIST = ListQuery(b"list", (CATEGORY,))
#: Another list of the same shape, which registers it in the other shard.
OTHER = ListQuery(b"other", (CATEGORY,), category=1, shard=-1)
#: A list that joins the table with itself.
PAIR = ListQuery(b"pair", (CATEGORY, RANK))


def _table(ring: Ring, *, is_tag_apart: bool, is_shard_apart: bool) -> str:
    """Return a name of the table with which tags and shards are on the nodes that a scenario wants."""

    def node_of(key: bytes) -> bool:
        return bool(ring.owner(key) != ring.owner(LIST.name))

    for number in count():
        name = f"t{number}"
        shards = tag_keys([f"shapes:{SCOPE}:{name}:{shard}" for shard in range(2)])
        if {node_of(tag) for tag in LIST.tags(name)} == {is_tag_apart} and {
            node_of(shard) for shard in shards
        } == {is_shard_apart}:
            return name
    raise AssertionError


@dataclass(frozen=True)
class ListScenario(Scenario):
    """A scenario of lists.

    Further accidents: ``evict_list``, ``evict_tag`` and ``evict_shard``; ``lose_shape``: a shard loses the
    shapes that were added to it, as in a failover; ``restore_shard``: a shard that is gone comes back with
    its old content, as from an older file.

    Attributes:
        is_tag_apart: The tag of the first list is on another node than the list.
        is_shard_apart: The shards are.
        shards: The number of shards.
        knows_shapes: The processes know what the ids of shapes stand for.
        is_cached: The first version of each list is cached.
    """

    is_tag_apart: bool = False
    is_shard_apart: bool = False
    shards: int = 1
    knows_shapes: bool = True
    is_cached: bool = True

    @property
    def uses_ring(self) -> bool:
        """Whether the keys are divided between two nodes."""
        return self.is_tag_apart or self.is_shard_apart

    @property
    def has_two_nodes(self) -> bool:
        return self.uses_ring or super().has_two_nodes

    @property
    def table(self) -> str:
        if not self.uses_ring:
            return "t"
        return _table(TWO_NODES, is_tag_apart=self.is_tag_apart, is_shard_apart=self.is_shard_apart)

    def world(self, nodes: tuple[Node, Node]) -> World:
        return ListWorld(nodes, self)

    @contextmanager
    def stepped_code(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for module in (deletes, pending_deletes):
                patch.setattr(module, "ring_cache_of", lambda alias: caches[alias])
            patch.setattr(query_names, "SHARDS", self.shards)
            patch.setattr(shape_registry, "_known", {})
            yield


class _Client(direct.Client):
    """A client whose operations are steps of an actor, or run at once in a probe."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.context)
        self._process, self.query_counts = process, Counters(QueryCounts)

    def run(self, operation: Operation[Any], *arguments: Any) -> Any:
        is_step = isinstance(getcurrent(), direct.Call)
        return super().run(operation) if is_step else self._process.run(operation)


class ListProcess(Process):
    """A process, with a cache object whose alias is the name of the process."""

    def __init__(self, world: World, name: str, deploy: str) -> None:
        super().__init__(world, name, deploy)
        scenario = world.scenario
        assert isinstance(scenario, ListScenario)
        if scenario.uses_ring:
            self.order = (0, 1)
            self.context.ring = TWO_NODES
        caches[name] = SimpleNamespace(client=_Client(self), many_tag_bytes=tag_keys)

    def make(self, move: str) -> None:
        assert isinstance(self.world, ListWorld)
        self.world.probing = self
        super().make(move)


class ListOutbox:
    """The rows of writers: each holds the change of one version."""

    def __init__(self, world: ListWorld) -> None:
        self._world = world
        self.rows: set[tuple[str, str]] = set()

    def keep(self, node: str, missed: MissedKeys) -> bool:
        raise NotImplementedError  # every delete is in the row of its writer

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        if not self.rows:
            return MissedKeys()
        # The process whose probe reads the outbox, as ``ClientOutbox`` does
        process = self._world.probing
        changes = {self._world.change(self._world.version_of(writer)) for _, writer in self.rows}
        position = process.order.index(NAMES.index(node))
        wrong = wrong_keys_at(caches[process.clock.name], changes, [position])
        return ALL_KEYS if wrong is None else MissedKeys(tuple(sorted(wrong)))


class ListWorld(World):
    """The lists, their tags, and the registry of their shapes."""

    #: The process that makes its move.
    probing: Process

    def __init__(self, nodes: tuple[Node, Node], scenario: ListScenario) -> None:
        self.table = scenario.table
        for node in nodes:
            node.call((b"FLUSHDB",))
        shape_registry._known.clear()
        if scenario.knows_shapes:
            shape_registry._known.update({shape.id: shape for shape in (CATEGORY, RANK)})
        #: The shards as they were before they went, by node and key.
        self.files: dict[tuple[int, bytes], dict[bytes, bytes]] = {}
        super().__init__(nodes, scenario)
        self.outbox = ListOutbox(self)
        queries = {actor.query for actor in self.actors if isinstance(actor, Reader)}  # type: ignore[attr-defined]
        self.queries = sorted(queries, key=lambda query: query.name)
        self.keys = {
            "lists": [query.name for query in self.queries],
            "tags": sorted({tag for query in self.queries for tag in query.tags(self.table)}),
            "shards": tag_keys(shard_names(SCOPE, self.table)),
        }
        if scenario.is_cached:
            for query in self.queries:
                self._store(query)

    def _store(self, query: ListQuery) -> None:
        """Store the first version of a list, as a read before the schedule did."""
        fill_options, token = query.fill_options(self.table), bytes(16)
        tokens = dict.fromkeys(fill_options.token_names, token)
        record = CODEC.encode(self.value_of(0), query.name, tags=tokens)
        self._call_owner(b"SET", query.name, record, b"PX", b"60000")
        for tag in fill_options.tags:
            self._call_owner(b"SET", tag, tag_record(token))
        for entry in fill_options.shapes:
            self._call_owner(b"HSET", entry.shard, entry.shape, token + entry.description)

    def _call_owner(self, name: bytes, key: bytes, *arguments: bytes) -> None:
        is_divided = isinstance(self.scenario, ListScenario) and self.scenario.uses_ring
        self.nodes[TWO_NODES.owner(key) if is_divided else 0].call((name, key, *arguments))

    def process(self, name: str, deploy: str) -> Process:
        return ListProcess(self, name, deploy)

    def value_of(self, version: int) -> Any:
        """Return what a list holds that was loaded when the row had a version."""
        return version

    def is_current(self, value: Any) -> bool:
        """Return whether a list holds what the row has now."""
        return bool(value == self.committed)

    def keys_of(self, version: int) -> set[bytes]:
        """Return the keys of the write that made a version, as transactions collect them."""
        return {self.change(version)}

    def change(self, version: int) -> bytes:
        """Return the key that stands for the change that made a version."""
        row = ValueChange(["category", "rank"], values_of(version - 1), values_of(version))
        return ResultChange([SCOPE], self.table, [row]).key

    def version_of(self, actor: str) -> int:
        """Return the version that a writer made."""
        writer = self.actors[int(actor)]
        assert isinstance(writer, Writer)
        return writer.version

    def moves(self) -> list[str]:
        moves = super().moves()
        held = self._held()
        for accident, kind in _EVICTED.items():
            if self.remaining.get(accident) and any(name == kind for name, *_ in held):
                moves.append(f"accident {accident}")
        shards = {(node, key) for kind, node, key, _ in held if kind == "shards"}
        if self.remaining.get("lose_shape") and shards:
            moves.append("accident lose_shape")
        if self.remaining.get("restore_shard") and self.files.keys() - shards:
            moves.append("accident restore_shard")
        return moves

    def _cause(self, accident: str) -> None:
        if accident not in {*_EVICTED, "lose_shape", "restore_shard"}:
            super()._cause(accident)
            return
        self.remaining[accident] -= 1
        if accident == "restore_shard":
            for (node, key), shapes in self.files.items():
                for shape, entry in shapes.items():
                    self.nodes[node].call((b"HSET", key, shape, entry))
            return
        for kind, node, key, content in self._held():
            if kind != _EVICTED.get(accident, "shards"):
                continue
            lost = (b"HDEL", key, CATEGORY.id) if accident == "lose_shape" else (b"DEL", key)
            self.nodes[node].call(lost)
            if kind == "shards" and self.remaining.get("restore_shard"):
                self.files[node, key] = dict(content)

    def _held(self) -> list[tuple[str, int, bytes, Any]]:
        """Return kind, node, key and content of each key that a node holds."""
        return [each for each in self.contents() if each[-1]]

    def contents(self) -> tuple[Any, ...]:
        """Return kind, node, key and content of each key; read once for each move."""
        if self._contents is None:
            numbers = (0, 1) if self.scenario.has_two_nodes else (0,)
            self._contents = tuple(each for node in numbers for each in self._contents_of(node))
        return self._contents

    def _contents_of(self, node: int) -> Iterator[tuple[str, int, bytes, Any]]:
        strings = [(kind, key) for kind in self.keys if kind != "shards" for key in self.keys[kind]]
        found = self.nodes[node].call((b"MGET", *(key for _, key in strings)))
        for (kind, key), content in zip(strings, found, strict=True):
            yield kind, node, key, content
        for key in self.keys["shards"]:
            shapes: Any = self.nodes[node].call((b"HGETALL", key))
            if isinstance(shapes, list):
                shapes = dict(zip(shapes[::2], shapes[1::2], strict=True))
            yield "shards", node, key, tuple(sorted(shapes.items()))

    def record(self) -> bytes:
        return b""  # the accidents of a single key do not happen here

    def state(self) -> tuple[Any, ...]:
        files = repr(sorted((place, sorted(shapes.items())) for place, shapes in self.files.items()))
        return (*super().state(), files, frozenset(shape_registry._known))

    def _relay(self) -> None:
        process = self.process("relay", self.scenario.relay)
        operation = delete_rows(relay_rows(self, "relay"), set())
        finish_rows(self, process.run(operation), process)

    def check_end(self) -> None:
        for deploy in self.scenario.deploys or ("old",):
            process = self.process("end", deploy)
            for query in self.queries:
                value = _read(process, query, self)
                if not self.is_current(value):
                    self.wrong.append(f"{query.name!r} has {value} although {self.committed} is committed")


def _read(process: Process, query: ListQuery, world: ListWorld) -> Any:
    """Read a list at the end; a miss loads the last version."""
    operation = get_or_load(process.context, query.name, lambda: None, query.fill_options(world.table))
    try:
        effect = next(operation)
        while True:
            if isinstance(effect, Sleep):
                process.clock.waited += OPTIONS.lease_timeout
            outcome = process.perform(effect) if isinstance(effect, Send) else world.value_of(world.committed)
            effect = operation.send(outcome)
    except StopIteration as end:
        return end.value


def relay_rows(world: ListWorld, alias: str) -> dict[int, Any]:
    """Return the keys of each outbox row for the relay, by the number of its writer."""
    return {
        int(writer): {alias: world.keys_of(world.version_of(writer))}
        for _, writer in sorted(world.outbox.rows)
    }


def finish_rows(world: ListWorld, writers: Sequence[int], process: Process) -> None:
    """Delete the outbox rows of writers whose deletes are confirmed."""
    for number in writers:
        world.outbox.rows.discard(("keys", f"{number}"))
        actor = world.actors[number]
        assert isinstance(actor, Writer)
        world.settle(actor.version, process.order)  # each change makes every list wrong
