"""Actors that write the row, and delete, clear, make stale or quarantine its key by the real operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachebackend import protocol
from cachebackend.effects import Effect, Operation, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from tests.interleavings.actors import Actor
from tests.interleavings.world import KEY

if TYPE_CHECKING:
    from tests.interleavings.processes import Process
    from tests.interleavings.world import World

__all__ = [
    "Clearer",
    "CrashingStrictStatement",
    "CrashingStrictWriter",
    "CrashingWriter",
    "HastyWriter",
    "PlainWriter",
    "PlainWriterOfTwo",
    "SoftWriter",
    "StrictStatement",
    "StrictWriter",
    "Writer",
]


class Writer(Actor):
    """Writes the row: commits, then deletes the key; or commits inside a quarantine of the key."""

    #: In the order of ``invalidation.transactions``.
    order: tuple[str, ...] = ("commit", "delete", "acknowledge")
    may_crash = False
    #: Whether an outbox row is committed together with the row.
    in_outbox = True

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.token = self.process.clock.token()
        self.version = self.position = 0
        self.operation: Operation[Any] | None = None
        self.effect: Effect | None = None
        #: Nodes that did not confirm the last operation.
        self.unconfirmed: set[int] = set()

    @property
    def is_done(self) -> bool:
        return self.position >= len(self.order)

    def moves(self) -> list[str]:
        if self.is_done:
            return []
        has_begun = self.position > 0 or self.operation is not None
        return [self.order[self.position]] + (["crash"] if self.may_crash and has_begun else [])

    def make(self, move: str) -> None:
        self.history.append(move)
        if move == "crash":
            self.position = len(self.order)
            return
        rows = self.world.outbox.rows
        match move:
            case "intend":
                rows.add(("intent", self.name))
            case "commit":
                self.world.committed += 1
                self.version = self.world.committed
                if self.in_outbox and ("intent", self.name) not in rows:
                    rows.add(("keys", self.name))
            case "acknowledge":
                self._acknowledge()
            case _:
                if not self._step(move):
                    return
        self.position += 1

    def _step(self, name: str) -> bool:
        """Do one effect of an operation; return whether it was the last."""
        try:
            if self.operation is None:
                self.unconfirmed = set()
                self.operation = self.begin(name)
                self.effect = next(self.operation)
            assert isinstance(self.effect, Send)
            replies = self.process.perform(self.effect)
            for (position, _), reply in zip(self.effect.requests, replies, strict=True):
                if isinstance(reply, RingCacheError):
                    self.unconfirmed.add(self.process.order[position])
            self.history.append(repr(replies))
            self.effect = self.operation.send(replies)
        except StopIteration:
            self.operation = None
            return True
        except NodeUnavailableError:  # the quarantine failed: nothing is written
            self.world.outbox.rows.discard(("intent", self.name))
            self.position = len(self.order)
            return True
        return False

    def begin(self, name: str) -> Operation[Any]:
        """Return the operation of a step."""
        context, target = self.process.context, self.world.scenario.target
        begun: Operation[Any] = {
            "delete": lambda: protocol.delete_many(context, [target], in_outbox=self.in_outbox),
            "clear": lambda: protocol.clear(context, b"*"),
            "make_stale": lambda: protocol.make_stale(context, KEY, 30_000),
            "quarantine": lambda: protocol.quarantine(context, [KEY], self.token),
            "unquarantine": lambda: protocol.unquarantine(context, [KEY], self.token),
        }[name]()
        return begun

    def _acknowledge(self) -> None:
        world = self.world
        world.acknowledged = max(world.acknowledged, self.version)
        self.process.acknowledged = max(self.process.acknowledged, self.version)
        world.settle(self.version, [node for node in (0, 1) if node not in self.unconfirmed])
        if not self.unconfirmed:
            world.outbox.rows -= {("keys", self.name), ("intent", self.name)}


class CrashingWriter(Writer):
    may_crash = True


class PlainWriter(Writer):
    """Deletes by ``cache.delete``, for which no transaction writes an outbox row."""

    in_outbox = False


class PlainWriterOfTwo(PlainWriter):
    """Writes twice."""

    order = ("commit", "delete", "acknowledge") * 2


class Clearer(PlainWriter):
    """Clears the cache instead of deleting the key."""

    order = ("commit", "clear", "acknowledge")


class StrictWriter(Writer):
    """A strict write in a transaction."""

    order = ("quarantine", "commit", "unquarantine", "acknowledge")


class CrashingStrictWriter(StrictWriter):
    may_crash = True


class StrictStatement(StrictWriter):
    """A strict write in autocommit: the outbox has its intent before the write, and the relay acts on it."""

    order = ("intend", "quarantine", "commit", "unquarantine", "acknowledge")


class CrashingStrictStatement(StrictStatement):
    may_crash = True


class SoftWriter(Writer):
    """Makes the value stale instead of deleting it; its readers allow no stale value."""

    order = ("commit", "make_stale", "acknowledge")


class HastyWriter(Writer):
    """A wrong writer: it deletes before it commits."""

    order = ("delete", "commit", "acknowledge")
