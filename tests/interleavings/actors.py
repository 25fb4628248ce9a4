"""Actors: readers and writers that run in a process, one move after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.interleavings.clocks import StepClock

if TYPE_CHECKING:
    from tests.interleavings.processes import Process
    from tests.interleavings.world import World

__all__ = ["Actor"]


class Actor:
    """A reader or writer in a process, which makes one move after another."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        self.name, self.world, self.process = name, world, process
        self.clock = StepClock(name)
        #: Every reply and move so far; together they decide what the actor does next.
        self.history: list[Any] = []

    @property
    def is_done(self) -> bool:
        raise NotImplementedError

    def moves(self) -> list[str]:
        raise NotImplementedError

    def make(self, move: str) -> None:
        raise NotImplementedError
