"""One slot of a cluster as a node of the write-behind queue: commands go to the shard that owns the slot now.

All keys of such a node have one hash tag, so a script may use several of them. While the slot moves, the keys
are at two servers, and a server that lacks one of the keys of a script executes nothing: ``TRYAGAIN``. A slot
moves within milliseconds, so the command waits and is sent again, for as long as a reply may take.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence

from cachebackend.clock import Clock
from cachebackend.cluster.cluster import Cluster
from cachebackend.cluster.shard import ShardNode
from cachebackend.drivers import Pending
from cachebackend.effects import Command, Reply
from cachebackend.errors import MovingSlotError, NodeUnavailableError
from cachebackend.node import Breaker
from cachebackend.ring import Ring, cluster_slot

__all__ = ["PartRing", "SlotNode"]

#: Seconds between two attempts: the first pause, which doubles with each one, and the longest.
FIRST_PAUSE, MAX_PAUSE = 0.005, 0.1


class PartRing(Ring):
    """The owner of each partition of a queue on a cluster: one of the parts of the queue."""

    def copies(self, key: bytes, number: int) -> list[int]:
        """Return the nodes that store copies of a key: one, because the cluster itself makes copies."""
        del number
        return [self.owner(key)]


class SlotNode:
    """The slot of a hash tag, as a node.

    Args:
        cluster: The cluster.
        tag: The hash tag, without braces.
        seconds: The most seconds that a command waits while the slot moves.
        clock: The source of time.
    """

    def __init__(self, cluster: Cluster, tag: str, seconds: float, clock: Clock) -> None:
        self._cluster, self._tag = cluster, tag
        self._seconds, self._clock = seconds, clock
        self._slot = cluster_slot(tag.encode())

    @property
    def shard(self) -> ShardNode:
        """The shard that owns the slot now."""
        return self._cluster.shards[self._cluster.ring.owner_of_slot(self._slot)]

    @property
    def name(self) -> str:
        """The tag, and the present primary."""
        return f"{self._tag} at {self.shard.name}"

    @property
    def endpoint(self) -> str:
        """Identifies the cluster among processes."""
        return self.shard.endpoint

    @property
    def server(self) -> str:
        """The present primary: host and port."""
        return self.shard.name

    @property
    def is_served(self) -> bool:
        """Whether a server of the cluster has the slot."""
        return self._slot not in self._cluster.ring.unserved

    @property
    def breaker(self) -> Breaker | None:
        """The breaker of the shard."""
        return self.shard.breaker

    @property
    def is_ejected(self) -> bool:
        """True if the shard gets no commands now. Starts its probe if that is due."""
        return self.shard.is_ejected

    def fail(self, reason: str) -> NodeUnavailableError:
        """Record that the replies of the shard kept an operation in a loop; return our error."""
        return self.shard.fail(reason)

    def close(self) -> None:
        """Close idle connections to all servers."""
        for node in self._cluster.shards.values():
            node.close()

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; a failure is returned as the reply."""
        reply = self.shard.call(command)
        return self._repeated([command], [reply])[0] if reply.__class__ is MovingSlotError else reply

    def send(self, commands: Sequence[Command]) -> Pending:
        """Send commands; ``receive`` of the result returns their replies."""
        return _Replies(self, commands)

    async def submit(self, commands: Sequence[Command]) -> list[Reply]:
        """Return the replies to commands, in the running event loop."""
        return await self._repeated_async(commands, self.shard.submit(commands))

    def _repeated(self, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Send again what the server refused because the slot moves; return all replies."""
        for pause in self._pauses():
            if not (positions := _refused(replies)):
                break
            time.sleep(pause)
            again = self.shard.send([commands[position] for position in positions]).receive()
            _put(replies, positions, again)
        return replies

    async def _repeated_async(
        self, commands: Sequence[Command], submitted: Awaitable[list[Reply]]
    ) -> list[Reply]:
        replies = list(await submitted)
        for pause in self._pauses():
            if not (positions := _refused(replies)):
                break
            await asyncio.sleep(pause)
            again = await self.shard.submit([commands[position] for position in positions])
            _put(replies, positions, again)
        return replies

    def _pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each attempt, until the time is over."""
        end, pause = self._clock.monotonic() + self._seconds, FIRST_PAUSE
        while self._clock.monotonic() + pause < end:
            yield pause
            pause = min(2 * pause, MAX_PAUSE)


class _Replies:
    """The replies to commands that were sent to the shard of a slot.

    Several slots of one shard are used at the same time. If the shard stops answering, only the first of them
    waits for it.
    """

    __slots__ = ("_commands", "_node", "_pending", "_shard", "_was_open")

    def __init__(self, node: SlotNode, commands: Sequence[Command]) -> None:
        self._node, self._commands, self._shard = node, commands, node.shard
        self._pending = self._shard.send(commands)
        self._was_open = self._is_open()

    def _is_open(self) -> bool:
        return self._shard.breaker is not None and self._shard.breaker.is_open

    def receive(self) -> list[Reply]:
        """Return the reply to each command; a reply that did not come is a NodeUnavailableError."""
        if not self._was_open and self._is_open():
            self._pending.abandon()
            failure = NodeUnavailableError(f"node {self._node.name!r} was ejected before its reply was read")
            failure.was_sent = True
            return [failure] * len(self._commands)
        return self._node._repeated(self._commands, self._pending.receive())  # both classes are one unit

    def abandon(self) -> None:
        """Give up the replies: they will not be read."""
        self._pending.abandon()


def _refused(replies: Sequence[Reply]) -> list[int]:
    return [position for position, reply in enumerate(replies) if isinstance(reply, MovingSlotError)]


def _put(replies: list[Reply], positions: Sequence[int], new: Sequence[Reply]) -> None:
    for position, reply in zip(positions, new, strict=True):
        replies[position] = reply
