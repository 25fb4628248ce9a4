"""Processes of a world: each has its own breakers, missed deletes and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.effects import Command, Effect, Operation, Send
from cachebackend.errors import NodeUnavailableError
from cachebackend.node import Breaker
from cachebackend.options import RingOptions
from cachebackend.protocol import Context
from cachebackend.protocol.context import Gutter, RingChange
from cachebackend.protocol.missed_deletes import MissedDeletes, MissedKeys
from cachebackend.protocol.ring import replay as replay_module
from cachebackend.ring import Ring
from tests.interleavings.clocks import SlowClock, StepClock

if TYPE_CHECKING:
    from tests.interleavings.world import World

__all__ = ["NAMES", "OPTIONS", "Process"]

OPTIONS = RingOptions.read("redis://unused?name=a", {"early_refresh_beta": 0}, "CACHES")
RING, CODEC = Ring([("a", 1.0)]), Codec("auto")
NAMES = ("a", "b")
#: Which node comes first in a process' settings, and whether the second is the ring that is left, and warm.
DEPLOYS: dict[str, tuple[tuple[int, ...], bool, bool]] = {
    "old": ((0,), False, False),
    "joining": ((0, 1), False, False),
    "leaving": ((1, 0), True, True),
    "cold": ((1, 0), True, False),
    "new": ((1,), False, False),
}


class Process:
    """What a process knows of the nodes: its breakers, what it noted that they missed, its settings.

    Attributes:
        order: The nodes, as its settings have them.
        known: By node, the last version that it was told of for certain when it was let in here.
    """

    def __init__(self, world: World, name: str, deploy: str = "old") -> None:
        self.world, self.clock = world, StepClock(name)
        self.order, is_old, is_warm = DEPLOYS[deploy]
        self.breakers = [Breaker(each, self.clock) for each in NAMES]
        self.known = [0, 0]
        #: The last version that was acknowledged here.
        self.acknowledged = 0
        #: By node that is being let in: the last version that had been acknowledged when it was told.
        self.telling: dict[int, int] = {}
        self.context = Context(RING, CODEC, OPTIONS, self.clock, Counters(Counts))
        self.slow = SlowClock(name)
        self.context.missed = MissedDeletes(world.scenario.replay_limit, self.slow)
        self.context.on_missed = self._on_missed
        self.context.patterns = {b"*"}
        if len(self.order) > 1:
            self.context.ring_change = RingChange(RING, (1,), is_old, is_warm)
        if world.scenario.has_gutter:
            self.order = (0, 1)
            self.context.gutter = Gutter(RING, (1,), 10_000, lambda at: self.is_open(self.order[at]))

    def is_open(self, node: int) -> bool:
        return self.breakers[node].is_open

    def _on_missed(self, at: int, owed: MissedKeys) -> None:
        """Do as ``RingClient`` does."""
        since = self.slow.monotonic()
        if owed and self.world.outbox.keep(NAMES[self.order[at]], owed):
            self.context.missed.kept(at, owed, since)

    def run(self, operation: Operation[Any]) -> Any:
        try:
            effect = next(operation)
            while True:
                effect = operation.send(self.perform(effect))
        except StopIteration as end:
            return end.value

    def perform(self, effect: Effect) -> list[Any]:
        assert isinstance(effect, Send)
        return [self._call(self.order[at], command) for at, command in effect.requests]

    def _call(self, node: int, command: Command) -> Any:
        if self.is_open(node):
            return NodeUnavailableError("ejected")
        if node in self.world.down:
            self.breakers[node].failed(NodeUnavailableError("down"), at_once=True)
            return NodeUnavailableError("down")
        return self.world.call(node, command)

    def moves(self) -> list[str]:
        """Return what its probes may do next."""
        found = []
        for at, node in enumerate(self.order):
            if node in self.world.down:
                continue
            if node in self.telling:
                found.append(f"close{node}")
            elif self.is_open(node) or self.context.missed.count(at) != 0:
                # Who is alone in its process cannot come in between
                found.append(f"tell{node}" if self.world.scenario.is_one_process else f"probe{node}")
        return found

    def make(self, what: str) -> None:
        node = int(what[-1])
        at, context = self.order.index(node), self.context
        if what.startswith(("tell", "probe")):
            self.telling[node] = self.world.acknowledged
            self._tell(node, replay_module.replay(context, at, self.world.outbox, NAMES[node]))
        if what.startswith("tell"):
            return
        if self.breakers[node].close(lambda: context.missed.count(at) == 0):
            self.known[node] = max(self.known[node], self.telling.pop(node), self.acknowledged)
        else:
            self._tell(node, replay_module.replay_missed(context, at))

    def _tell(self, node: int, operation: Operation[None]) -> None:
        """Run an operation on a node that is let nobody else in."""
        try:
            effect = next(operation)
            while isinstance(effect, Send):
                effect = operation.send([self.world.call(node, command) for _, command in effect.requests])
        except StopIteration:
            return

    def floor(self) -> int:
        """Return the last version that whoever reads here now must be given.

        A node that this process has ejected is not read; another may be read as it was until it is told.
        """
        if self.world.scenario.is_strict:
            return self.world.acknowledged
        return min(
            self.world.acknowledged if self.is_open(node) else max(self.world.settled[node], self.known[node])
            for node in self.order
        )

    def state(self) -> str:
        noted = [
            sorted((str(name), since > 0) for name, since in keys.items())
            for keys in self.context.missed._recorded.values()
        ]
        is_open = [breaker.is_open for breaker in self.breakers]
        return repr((is_open, noted, self.known, self.telling, self.acknowledged))
