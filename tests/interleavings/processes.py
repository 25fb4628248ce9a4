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
#: By deploy: the nodes in the order of its settings, whether the second one is the old ring, and whether
#: misses are warmed from it.
DEPLOYS: dict[str, tuple[tuple[int, ...], bool, bool]] = {
    "old": ((0,), False, False),
    "joining": ((0, 1), False, False),
    "leaving": ((1, 0), True, True),
    "cold": ((1, 0), True, False),
    "new": ((1,), False, False),
}


class Process:
    """A process: its breakers, the missed deletes that it recorded, and its settings.

    Attributes:
        order: The nodes, in the order of its settings.
        confirmed: By node, the last version whose delete the node had certainly received when its breaker
            closed in this process.
    """

    def __init__(self, world: World, name: str, deploy: str = "old") -> None:
        self.world, self.clock = world, StepClock(name)
        self.order, is_old, is_warm = DEPLOYS[deploy]
        self.breakers = [Breaker(each, self.clock) for each in NAMES]
        self.confirmed = [0, 0]
        #: The last version that a writer of this process acknowledged.
        self.acknowledged = 0
        #: By node that a replay runs on: the last version that was acknowledged when the replay began.
        self.replaying: dict[int, int] = {}
        self.context = Context(RING, CODEC, OPTIONS, self.clock, Counters(Counts))
        self.slow = SlowClock(name)
        self.context.missed = MissedDeletes(world.scenario.replay_limit, self.slow)
        self.context.on_missed = self._on_missed
        self.context.patterns = {b"*"}
        if len(self.order) > 1:
            self.context.ring_change = RingChange(RING, (1,), is_old, is_warm)
        if world.scenario.has_gutter:
            self.order = (0, 1)
            self.context.gutter = Gutter(
                RING, (1,), 10_000, lambda position: self.is_open(self.order[position])
            )

    def is_open(self, node: int) -> bool:
        return self.breakers[node].is_open

    def _on_missed(self, position: int, missed: MissedKeys) -> None:
        """Record missed deletes in the outbox, like ``RingClient``."""
        since = self.slow.monotonic()
        if missed and self.world.outbox.keep(NAMES[self.order[position]], missed):
            self.context.missed.kept(position, missed, since)

    def run(self, operation: Operation[Any]) -> Any:
        try:
            effect = next(operation)
            while True:
                effect = operation.send(self.perform(effect))
        except StopIteration as end:
            return end.value

    def perform(self, effect: Effect) -> list[Any]:
        assert isinstance(effect, Send), effect
        return [self._call(self.order[position], command) for position, command in effect.requests]

    def _call(self, node: int, command: Command) -> Any:
        if self.is_open(node):
            return NodeUnavailableError("ejected")
        if node in self.world.down:
            self.breakers[node].failed(NodeUnavailableError("down"), at_once=True)
            return NodeUnavailableError("down")
        if self.world.loses(node, command):
            error = NodeUnavailableError("did not answer")
            error.was_sent = True
            return error
        return self.world.call(node, command)

    def moves(self) -> list[str]:
        """Return the moves that its probes may make next."""
        moves = []
        for position, node in enumerate(self.order):
            if node in self.world.down:
                continue
            if node in self.replaying:
                moves.append(f"close{node}")
            elif (
                self.is_open(node)
                or self.context.missed.count(position) != 0
                or self.context.orphans.of(position)
            ):
                # The only actor of a process cannot act between the replay and the close
                moves.append(f"replay{node}" if self.world.scenario.is_one_process else f"probe{node}")
        return moves

    def make(self, move: str) -> None:
        node = int(move[-1])
        position, context = self.order.index(node), self.context
        if move.startswith(("replay", "probe")):
            self.replaying[node] = self.world.acknowledged
            self._replay(node, replay_module.replay(context, position, self.world.outbox, NAMES[node]))
        if move.startswith("replay"):
            return
        if self.breakers[node].close(
            lambda: context.missed.count(position) == 0 and not context.orphans.of(position)
        ):
            self.confirmed[node] = max(self.confirmed[node], self.replaying.pop(node), self.acknowledged)
        else:
            self._replay(node, replay_module.replay_missed(context, position))

    def _replay(self, node: int, operation: Operation[None]) -> None:
        """Run a replay on a node whose breaker is still open."""
        try:
            effect = next(operation)
            while isinstance(effect, Send):
                effect = operation.send([self.world.call(node, command) for _, command in effect.requests])
        except StopIteration:
            return

    def oldest_allowed(self) -> int:
        """Return the oldest version that a read of this process may return now.

        A node that this process has ejected is not read. Any other node may serve its old value until it
        receives the delete.
        """
        if self.world.scenario.is_strict:
            return self.world.acknowledged
        return min(
            self.world.acknowledged
            if self.is_open(node)
            else max(self.world.settled[node], self.confirmed[node])
            for node in self.order
        )

    def state(self) -> str:
        recorded = [
            sorted((str(name), since > 0) for name, since in keys.items())
            for keys in self.context.missed._recorded.values()
        ]
        is_open = [breaker.is_open for breaker in self.breakers]
        orphans = sorted(
            record for node in range(len(self.order)) for _, record in self.context.orphans.of(node)
        )
        return repr((is_open, recorded, orphans, self.confirmed, self.replaying, self.acknowledged))
