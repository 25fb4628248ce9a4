"""Actors that read lists, write their row, and relay its changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachebackend.effects import Load, Operation, Send
from cachebackend.invalidation import pending_deletes
from cachebackend.protocol import get_or_load
from tests.interleavings import direct
from tests.interleavings.lists import LIST, OTHER, PAIR, ListWorld, finish_rows, relay_rows
from tests.interleavings.readers import Reader
from tests.interleavings.relaying import delete_rows
from tests.interleavings.scattering import Scattering
from tests.interleavings.writers import Writer

if TYPE_CHECKING:
    from tests.interleavings.processes import Process
    from tests.interleavings.world import World

__all__ = [
    "CrashingListWriter",
    "ListReader",
    "ListReaderOfTwo",
    "ListRelay",
    "ListWriter",
    "OtherListReader",
    "PairReader",
    "ScatteringListReader",
    "ScatteringListWriter",
]


class ListReader(Reader):
    """Reads a list of one category."""

    query = LIST

    def start(self) -> Operation[Any]:
        assert isinstance(self.world, ListWorld)
        fill_options = self.query.fill_options(self.world.table)
        return get_or_load(self.context(), self.query.name, lambda: None, fill_options)


class ListReaderOfTwo(ListReader):
    """Reads the list twice."""

    reads = 2


class OtherListReader(ListReader):
    """Reads the list of the other category, whose shape is in the other shard."""

    query = OTHER


class PairReader(ListReader):
    """Reads a list that depends on two shapes."""

    query = PAIR


class ScatteringListReader(ListReader):
    """Performs the requests of a scatter one by one: they may arrive in any order."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.arrived: dict[int, Any] = {}

    def moves(self) -> list[str]:
        if self.is_done or not isinstance(self.effect, Send) or self.operation is None:
            return super().moves()
        numbers = range(len(self.effect.requests))
        return [f"step:{number}" for number in numbers if number not in self.arrived]

    def make(self, move: str) -> None:
        if self.operation is None:
            self.oldest_allowed = self.process.oldest_allowed()
            self.operation = self.start()
            self.effect = next(self.operation)
            self.history.append(("begun", self.oldest_allowed))
            return
        if isinstance(self.effect, Load):
            super().make(move)
            return
        assert isinstance(self.effect, Send)
        number = int(move.partition(":")[2])
        [self.arrived[number]] = self.process.perform(Send([self.effect.requests[number]]))
        self.history.append((number, repr(self.arrived[number])))
        if len(self.arrived) < len(self.effect.requests):
            return
        replies = [self.arrived.pop(each) for each in range(len(self.effect.requests))]
        try:
            self.effect = self.operation.send(replies)
        except StopIteration as end:
            self.finish(end.value)


class ListWriter(Writer):
    """Writes the row, and deletes the tags of the lists that the change makes wrong."""

    def begin(self, name: str) -> Operation[Any]:
        assert isinstance(self.world, ListWorld)
        pending = pending_deletes.PendingDeletes("default")
        pending.keys = {self.process.clock.name: self.world.keys_of(self.version)}
        return direct.as_operation(pending.delete)


class CrashingListWriter(ListWriter):
    may_crash = True


class ScatteringListWriter(Scattering, ListWriter):
    """The requests of its scatters arrive in any order."""


class ListRelay(Scattering):
    """Runs the relay once, each of its requests a move; at the end the world runs it at once."""

    order = ("relay",)

    def moves(self) -> list[str]:
        return super().moves() if self.operation is not None or self.world.outbox.rows else []

    def begin(self, name: str) -> Operation[Any]:
        assert isinstance(self.world, ListWorld)
        return delete_rows(relay_rows(self.world, self.process.clock.name), set())

    def finish(self, value: list[int]) -> None:
        assert isinstance(self.world, ListWorld)
        finish_rows(self.world, value, self.process)
