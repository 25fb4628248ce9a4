"""What acts in a process, one move after another; readers and writers are actors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.interleavings.clocks import StepClock

if TYPE_CHECKING:
    from tests.interleavings.processes import Process
    from tests.interleavings.world import World

__all__ = ["Actor"]


class Actor:
    """Who acts in a process, one move after another."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        self.name, self.world, self.process = name, world, process
        self.clock = StepClock(name)
        #: What decides what it does next.
        self.told: list[Any] = []

    @property
    def is_done(self) -> bool:
        raise NotImplementedError

    def moves(self) -> list[str]:
        raise NotImplementedError

    def make(self, what: str) -> None:
        raise NotImplementedError
