"""The world of a page: a value with a tag, whose loader reads a row that is cached itself.

The key of the row is on the first node, the page and its tag are on the second. The order of the
deletes is that of the real ``PendingDeletes.delete`` and of the real page of the relay, whose
requests are steps as well. A process may have a copy of the row, whose invalidation message is
under way after the row's key has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from cachebackend import protocol
from cachebackend.effects import Command, Load, Operation
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation import deletes, pending_deletes
from cachebackend.loader import loader_block
from cachebackend.near import NearCache
from cachebackend.node import Node
from cachebackend.options.ring import NearOptions
from cachebackend.protocol import FillOptions
from cachebackend.protocol.missed_deletes import MissedKeys
from cachebackend.ring import Ring
from tests.interleavings import direct
from tests.interleavings.processes import Process
from tests.interleavings.readers import Reader
from tests.interleavings.relaying import caches, delete_rows
from tests.interleavings.scattering import Scattering
from tests.interleavings.scenario import MINUTE, Scenario
from tests.interleavings.world import KEY, World
from tests.interleavings.writers import Writer

__all__ = [
    "CrashingPageWriter",
    "PageReader",
    "PageScenario",
    "PageWriter",
    "Relay",
    "RelayOfTwo",
]

PAGE, TAG = b"page", b"front\xff"
#: The first node owns the row's key, the second one the page and the tag.
TWO_NODES = Ring([("b", 1.0), ("a", 1.0)])
TAGGED = FillOptions(60_000, tags=(TAG,))


@dataclass(frozen=True)
class PageScenario(Scenario):
    """A scenario of a page.

    Attributes:
        has_copies: Every process of a reader has a copy of the row at the beginning.
        is_cut_off: The processes of writers cannot reach the row's node, which other processes reach.
    """

    has_copies: bool = False
    is_cut_off: bool = False

    @property
    def has_two_nodes(self) -> bool:
        return True

    def world(self, nodes: tuple[Node, Node]) -> World:
        return PageWorld(nodes, self)

    @contextmanager
    def stepped_code(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for module in (deletes, pending_deletes):
                patch.setattr(module, "ring_cache_of", lambda alias: caches[alias])
            yield


class PageProcess(Process):
    """A process that uses both nodes."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.order = (0, 1)
        self.context.ring = TWO_NODES
        caches[name] = SimpleNamespace(client=direct.Client(self.context))
        self.has_message = self.is_cut_off = False
        self.near: NearCache | None = None

    def copy_row(self) -> None:
        """Store a copy of the row, as a read before the schedule did."""
        near = self.near = self.context.near = NearCache(NearOptions(10), self.clock)
        for node in self.order:
            near.tracking_opened(node)
        record = self.world.call(0, (b"GET", KEY))
        near.keep(near.begin(KEY, 0), record, self.context.codec.decode(record, KEY), 60.0)

    def cut_off(self) -> None:
        """Eject the row's node, which does not come back for this process."""
        self.breakers[0].failed(NodeUnavailableError("cut off"), at_once=True)
        self.is_cut_off = True

    def moves(self) -> list[str]:
        moves = super().moves() + (["message"] if self.has_message else [])
        return [move for move in moves if move[-1] != "0"] if self.is_cut_off else moves

    def make(self, move: str) -> None:
        if move != "message":
            super().make(move)
            return
        assert self.near is not None
        self.near.drop((KEY,))
        self.has_message = False

    def state(self) -> str:
        copies = None if self.near is None else (len(self.near), list(self.near._placeholders))
        return repr((super().state(), copies, self.has_message))


class PageOutbox:
    """The rows of writers: each holds the key of the row and the tag."""

    def __init__(self) -> None:
        self.rows: set[tuple[str, str]] = set()

    def keep(self, node: str, missed: MissedKeys) -> bool:
        raise NotImplementedError  # every delete is in the row of its writer

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        return MissedKeys((KEY if node == "a" else TAG,) if self.rows else ())


class PageWorld(World):
    """Two nodes, the row, and the page that is made from it.

    Attributes:
        confirmed: The last version whose row and tag were both deleted, by its writer or the relay.
    """

    def __init__(self, nodes: tuple[Node, Node], scenario: PageScenario) -> None:
        super().__init__(nodes, scenario)
        for node in nodes:
            node.call((b"DEL", PAGE, TAG))
        self.outbox = PageOutbox()
        self.confirmed = 0
        for actor in self.actors:
            assert isinstance(actor.process, PageProcess)
            if scenario.has_copies and isinstance(actor, PageReader):
                actor.process.copy_row()
            if scenario.is_cut_off and isinstance(actor, PageWriter):
                actor.process.cut_off()

    def process(self, name: str, deploy: str) -> Process:
        return PageProcess(self, name)

    def call(self, node: int, command: Command) -> Any:
        if node or command[0] in (b"GET", b"PTTL"):
            return super().call(node, command)
        before = self.nodes[0].call((b"GET", KEY))
        reply = super().call(node, command)
        if self.nodes[0].call((b"GET", KEY)) != before:
            for process in self.processes:
                assert isinstance(process, PageProcess)
                process.has_message |= process.near is not None
        return reply

    def _relay(self) -> None:
        process = PageProcess(self, "relay")
        finish_rows(self, process.run(delete_page("relay", self.outbox.rows, set())))

    def contents(self) -> tuple[bytes | None, ...]:
        if self._contents is None:
            row = self.nodes[0].call((b"GET", KEY))
            self._contents = (row, *self.nodes[1].call((b"MGET", PAGE, TAG)))
        return self._contents

    def state(self) -> tuple[Any, ...]:
        return (*super().state(), self.confirmed)

    def check_end(self) -> None:
        process = PageProcess(self, "end")
        for key in (KEY, PAGE):
            value = process.run(protocol.get(process.context, key))
            if value is not None and value < self.committed:
                self.wrong.append(f"{key!r} has version {value} although {self.committed} is committed")


def delete_page(alias: str, rows: set[tuple[str, str]], early_tags: set[int]) -> Operation[list[int]]:
    """Return the relay's work on a page of outbox rows as an operation; it returns the confirmed writers."""
    return delete_rows({int(writer): {alias: {KEY, TAG}} for _, writer in sorted(rows)}, early_tags)


def finish_rows(world: PageWorld, writers: list[int]) -> None:
    """Delete the outbox rows of writers whose deletes are confirmed."""
    for number in writers:
        world.outbox.rows.discard(("keys", f"{number}"))
        actor = world.actors[number]
        assert isinstance(actor, Writer)
        world.confirmed = max(world.confirmed, actor.version)


class PageReader(Reader):
    """Reads the page; its loader reads the row through the cache."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.operations: list[Operation[Any]] = []

    def make(self, move: str) -> None:
        assert isinstance(self.world, PageWorld)
        if not self.operations:
            self.oldest_allowed = self.world.confirmed
            self._begin(protocol.get_or_load(self.process.context, PAGE, lambda: None, TAGGED))
        if isinstance(self.effect, Load) and len(self.operations) == 1:
            self.history.append("the loader reads the row")
            self._begin(protocol.get_or_load(self.process.context, KEY, lambda: None, MINUTE))
            return
        outcome = self.perform()
        self.history.append((type(self.effect).__name__, repr(outcome), self.oldest_allowed))
        self._continue(outcome)

    def _begin(self, operation: Operation[Any]) -> None:
        self.operations.append(operation)
        self._continue(None)

    def _continue(self, outcome: Any) -> None:
        """Step the innermost operation; the result of one that ends is the outcome of the outer one."""
        while self.operations:
            try:
                with self._block():
                    self.effect = self.operations[-1].send(outcome)
            except StopIteration as end:
                self.operations.pop()
                outcome = end.value
                self.history.append(("ended", outcome))
            else:
                return
        self.finish(outcome)

    def _block(self) -> AbstractContextManager[None]:
        return loader_block() if len(self.operations) > 1 else nullcontext()


class PageWriter(Scattering):
    """Writes the row, and deletes its key and the tag by the real ``PendingDeletes``."""

    def begin(self, name: str) -> Operation[Any]:
        pending = pending_deletes.PendingDeletes("default")
        pending.keys = {self.process.clock.name: {KEY, TAG}}
        return direct.as_operation(pending.delete)

    def _acknowledge(self) -> None:
        super()._acknowledge()
        assert isinstance(self.world, PageWorld)
        if not self.unconfirmed:
            self.world.confirmed = max(self.world.confirmed, self.version)


class CrashingPageWriter(PageWriter):
    may_crash = True


class Relay(Scattering):
    """Runs the relay once, each of its requests a move; at the end the world runs it at once."""

    order = ("relay",)

    def moves(self) -> list[str]:
        return super().moves() if self.operation is not None or self.world.outbox.rows else []

    def begin(self, name: str) -> Operation[Any]:
        return delete_page(self.process.clock.name, set(self.world.outbox.rows), set())

    def finish(self, value: list[int]) -> None:
        assert isinstance(self.world, PageWorld)
        finish_rows(self.world, value)


class RelayOfTwo(Relay):
    """Runs the relay twice."""

    order = ("relay",) * 2

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.early_tags: set[int] = set()

    def begin(self, name: str) -> Operation[Any]:
        return delete_page(self.process.clock.name, set(self.world.outbox.rows), self.early_tags)
