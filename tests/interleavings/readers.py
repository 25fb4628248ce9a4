"""Actors that read the row by the real ``get_or_load``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachebackend import protocol
from cachebackend.effects import Ask, Effect, Load, Operation, Sleep
from cachebackend.protocol import Context
from tests.interleavings import direct
from tests.interleavings.actors import Actor
from tests.interleavings.processes import OPTIONS
from tests.interleavings.world import KEY

if TYPE_CHECKING:
    from tests.interleavings.processes import Process
    from tests.interleavings.world import World

__all__ = [
    "DirectReader",
    "DirectReaderOfTwo",
    "GutterReader",
    "KnowingReader",
    "OldSnapshotReader",
    "Reader",
    "ReaderOfTwo",
]


class Reader(Actor):
    """Calls ``get_or_load`` for the row; each move is one effect."""

    #: The number of reads.
    reads = 1

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        #: The oldest version that the read may return, by the state at its beginning.
        self.oldest_allowed: int | None = None
        self.operation: Operation[Any] | None = None
        self.effect: Effect | None = None
        self.remaining_reads = self.reads

    @property
    def is_done(self) -> bool:
        return not self.remaining_reads

    def moves(self) -> list[str]:
        return [] if self.is_done else ["step"]

    def make(self, move: str) -> None:
        if self.operation is None:
            self.oldest_allowed = self.process.oldest_allowed()
            self.operation = self.start()
            self.effect = next(self.operation)
        outcome = self.perform()
        self.history.append((type(self.effect).__name__, repr(outcome), self.oldest_allowed))
        try:
            self.effect = self.operation.send(outcome)
            while isinstance(self.effect, Ask):  # no other actor can change the answer
                self.effect = self.operation.send(self.effect.question())
        except StopIteration as end:
            self.finish(end.value)

    def start(self) -> Operation[Any]:
        """Return a new read of the key."""
        return protocol.get_or_load(self.context(), KEY, lambda: None, self.world.scenario.fill_options)

    def context(self) -> Context:
        context = self.process.context
        return context.for_strict() if self.world.scenario.is_strict else context

    def perform(self) -> Any:
        match self.effect:
            case Load():
                return self.world.scenario.load(self)
            case Ask(question):
                return question()
            case Sleep():
                self.process.clock.waited += OPTIONS.lease_timeout
                return None
            case effect:
                assert effect is not None
                return self.process.perform(effect)

    def finish(self, value: Any) -> None:
        value = 0 if value is protocol.MISSING else value
        self.remaining_reads -= 1
        self.operation = None
        self.history.append(("returned", value))
        assert self.oldest_allowed is not None
        if value < self.oldest_allowed:
            self.world.wrong.append(
                f"read {value} though {self.oldest_allowed} was acknowledged before it began"
            )


class DirectReader(Reader):
    """Calls the client's own method, which needs no generator for one command and one reply."""

    had_value = False

    def start(self) -> Operation[Any]:
        fill_options = self.world.scenario.fill_options
        return direct.get_or_load(self.context(), KEY, fill_options, had_value=self.had_value)


class KnowingReader(DirectReader):
    """Knows that the key had a value, so it reads the key before it asks for a lease."""

    had_value = True


class OldSnapshotReader(Reader):
    """A reader whose database snapshot is older than its request to the cache."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.snapshot: int | None = None

    def make(self, move: str) -> None:
        if self.snapshot is None:
            self.snapshot = self.world.committed
            self.history.append(("snapshot", self.snapshot))
        else:
            super().make(move)


class ReaderOfTwo(Reader):
    """Reads twice."""

    reads = 2


class DirectReaderOfTwo(DirectReader):
    """Reads twice by the client's own method."""

    reads = 2


class GutterReader(ReaderOfTwo):
    """A wrong reader: it reads strict rows from the gutter."""

    def context(self) -> Context:
        return self.process.context
