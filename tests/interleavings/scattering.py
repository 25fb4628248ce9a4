"""Actors whose requests of one scatter arrive in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachebackend.effects import Request, Send
from cachebackend.errors import RingCacheError
from tests.interleavings.writers import Writer

if TYPE_CHECKING:
    from tests.interleavings.processes import Process
    from tests.interleavings.world import World

__all__ = ["Scattering"]


class Scattering(Writer):
    """Performs the requests of a scatter one by one: they may arrive in any order."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.arrived: dict[int, Any] = {}

    def moves(self) -> list[str]:
        moves = super().moves()
        if self.operation is None or not moves:
            return moves
        assert isinstance(self.effect, Send)
        open_requests = [number for number in range(len(self.effect.requests)) if number not in self.arrived]
        return [f"{moves[0]}:{number}" for number in open_requests] + moves[1:]

    def _step(self, name: str) -> bool:
        name, _, number = name.partition(":")
        try:
            if self.operation is None:
                self.unconfirmed = set()
                self.operation = self.begin(name)
                self.effect = next(self.operation)
            assert isinstance(self.effect, Send)
            if not number and len(self.effect.requests) > 1:
                return False
            self._perform(self.effect.requests[int(number or 0)], int(number or 0))
            if len(self.arrived) == len(self.effect.requests):
                replies = [self.arrived.pop(each) for each in range(len(self.effect.requests))]
                self.effect = self.operation.send(replies)
        except StopIteration as end:
            self.operation = None
            self.finish(end.value)
            return True
        return False

    def _perform(self, request: Request, number: int) -> None:
        [reply] = self.process.perform(Send([request]))
        self.arrived[number] = reply
        self.history.append(repr(reply))
        if isinstance(reply, RingCacheError):
            self.unconfirmed.add(self.process.order[request[0]])

    def finish(self, value: Any) -> None:
        """Take the result of an operation."""
