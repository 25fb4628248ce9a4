"""Where the parts meet: the ring, nodes, codec and counters of one alias, once a process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.codec import Codec
from cachebackend.drivers import Later, adrive, drive
from cachebackend.effects import Command, Operation, Reply, ScriptCall, Send
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.near.cache import MISS, NearCache
from cachebackend.node import Breaker, Exchange, Node, Tracking
from cachebackend.options import NodeAddress, RingOptions, WriteBehindOptions
from cachebackend.protocol import Context, QueueContext, get, has_vouchers, set_, value_of
from cachebackend.protocol.context import Gutter, OtherRing
from cachebackend.protocol.folding import FSYNC_MS, Folded, RowWrite, fold, fold_requests, found_of
from cachebackend.protocol.missed import Outbox, Owed
from cachebackend.protocol.partitions import Partition
from cachebackend.protocol.reading import NOT_PLAIN, plain_value
from cachebackend.protocol.replaying import replay, replay_missed
from cachebackend.protocol.writing import set_command, was_stored
from cachebackend.ring import Ring
from cachebackend.stats import Counts, DrainCounts, Stats

__all__ = ["QueueClient", "RingClient"]

logger = logging.getLogger("cachebackend")
T = TypeVar("T")
#: At most between two probes of a queue node: nothing stands in for one.
_QUEUE_PROBE_SECONDS = 5.0


class _Client:
    """Nodes, and how an operation is run on them."""

    def __init__(
        self, nodes: Sequence[NodeAddress], connect_timeout: float, socket_timeout: float, clock: Clock
    ) -> None:
        self.nodes = tuple(Node(node, connect_timeout, socket_timeout, clock) for node in nodes)

    def run(self, operation: Operation[T]) -> T:
        """Run an operation in the calling thread."""
        return drive(operation, self.nodes)

    async def arun(self, operation: Operation[T]) -> T:
        """Run an operation in the running event loop."""
        return await adrive(operation, self.nodes)

    def close(self) -> None:
        """Close the idle connections; the client can go on being used."""
        for node in self.nodes:
            node.close()


class RingClient(_Client):
    """One cache alias: what its threads and tasks share.

    Args:
        options: The alias' settings.
        clock: Where time, chance and tokens come from.
        secrets: Returns the secrets that values are signed with, the first one, and checked by.
    """

    def __init__(
        self,
        options: RingOptions,
        clock: Clock = SYSTEM_CLOCK,
        secrets: Callable[[], Sequence[bytes]] = tuple,
    ) -> None:
        super().__init__(options.all_nodes, options.connect_timeout, options.socket_timeout, clock)
        self.ring = Ring([(node.name, node.weight) for node in options.nodes])
        self.stats = Stats(Counts)
        codec = Codec(options.codec, options.compressor, options.compress_over_bytes, secrets)
        self.context = Context(self.ring, codec, options, clock, self.stats)
        places = [node.place for node in options.all_nodes]
        if others := options.joining or options.leaving:
            self.context.other = OtherRing(
                Ring([(node.name, node.weight) for node in others]),
                tuple(places.index(node.place) for node in others),
                is_left=bool(options.leaving),
                is_warm=bool(options.leaving) and options.warm,
            )
        if options.gutter:
            self.context.gutter = Gutter(
                Ring([(node.name, node.weight) for node in options.gutter]),
                tuple(places.index(node.place) for node in options.gutter),
                max(1, int(options.gutter_timeout * 1000)),
                lambda node: self.nodes[node].is_ejected,
            )
        self._near: NearCache | None = None
        self._trackings: list[Tracking] = []
        if options.near is not None:
            self._near = NearCache(options.near, clock)
            self._near.on_read = self._track
            self.context.near = self._near
        #: Where what nodes miss outlives the process; None: nowhere, and it is said once that it is so.
        self.outbox: Outbox | None = None
        self._has_said = False
        self.context.on_missed = self._on_missed
        for index, node in enumerate(self.nodes):
            node.breaker = Breaker(node.name, clock)
            node.replay = _Replay(self, index)
        _CLIENTS.add(self)

    def _on_missed(self, node: int, owed: Owed) -> None:
        """Keep what a node missed, and have it told as soon as it answers."""
        if owed:
            Later.call(partial(self._keep, node, owed))
        self.nodes[node].tend()

    def _keep(self, node: int, owed: Owed) -> None:
        since = self.context.clock.monotonic()
        if self.outbox is None:
            self._say_that_nothing_is_kept()
        elif self.outbox.keep(self.nodes[node].place, owed):
            self.context.missed.kept(node, owed, since)

    def _say_that_nothing_is_kept(self) -> None:
        if not self._has_said:
            self._has_said = True
            logger.warning(
                "deletes that nodes miss are kept in the memory of each process only, and lost with it; "
                "add 'cachebackend' to INSTALLED_APPS and migrate"
            )

    @property
    def has_near(self) -> bool:
        """Whether there is a near cache."""
        return self._near is not None

    def holds_near(self, key: bytes) -> bool | None:
        """Return whether the near cache has a copy of a key; None: there is no near cache."""
        return None if self._near is None else self._near.holds(key)

    def _looks_elsewhere(self, node: int, reply: Reply) -> bool:
        """Return whether a key may be at the ring that was left, or in the gutter."""
        if reply is None:
            return self.context.other is not None
        if self.context.gutter is None or reply.__class__ is not NodeUnavailableError:
            return False
        return self.nodes[node].is_ejected

    def get(self, key: bytes, missing: Any = None) -> Any:
        """Return the value of a key: ``protocol.get`` without its generator, for it has no protocol."""
        near = self._near
        if near is not None:
            copy = near.get(key, self.context.codec.decode)
            if copy is MISS:
                return self.run(get(self.context, key, missing))
            cell = self.stats.cell
            cell.hits += 1
            cell.near_hits += 1
            return copy
        begun = self.stats.begin_get()
        node = self.ring.owner(key)
        reply = self.nodes[node].call((b"GET", key))
        self.stats.end_get(begun)
        value = plain_value(self.context, reply)
        if value is not NOT_PLAIN:
            return value
        if has_vouchers(reply) or self._looks_elsewhere(node, reply):
            return self.run(get(self.context, key, missing))
        return value_of(self.context, reply, missing)

    async def aget(self, key: bytes, missing: Any = None) -> Any:
        """Return the value of a key, in the running event loop."""
        near = self._near
        if near is not None:
            copy = near.get(key, self.context.codec.decode)
            if copy is MISS:
                return await self.arun(get(self.context, key, missing))
            cell = self.stats.cell
            cell.hits += 1
            cell.near_hits += 1
            return copy
        begun = self.stats.begin_get()
        node = self.ring.owner(key)
        [reply] = await self.nodes[node].submit([(b"GET", key)])
        self.stats.end_get(begun)
        value = plain_value(self.context, reply)
        if value is not NOT_PLAIN:
            return value
        if has_vouchers(reply) or self._looks_elsewhere(node, reply):
            return await self.arun(get(self.context, key, missing))
        return value_of(self.context, reply, missing)

    def set(self, key: bytes, value: Any, ttl_ms: int | None) -> bool:
        """Store a value: ``protocol.set_`` without its generator where one answer is all of it."""
        if not self._is_alone or (ttl_ms is not None and ttl_ms <= 0):
            return self.run(set_(self.context, key, value, ttl_ms))
        record = self.context.codec.encode(value)
        node = self.ring.owner(key)
        self.context.drop_near((key,))
        reply = self.nodes[node].call(set_command(key, record, ttl_ms))
        self.context.drop_near((key,))
        return reply.__class__ is bytes or was_stored(self.context, node, key, reply)

    async def aset(self, key: bytes, value: Any, ttl_ms: int | None) -> bool:
        """Store a value, in the running event loop."""
        if not self._is_alone or (ttl_ms is not None and ttl_ms <= 0):
            return await self.arun(set_(self.context, key, value, ttl_ms))
        record = self.context.codec.encode(value)
        node = self.ring.owner(key)
        self.context.drop_near((key,))
        [reply] = await self.nodes[node].submit([set_command(key, record, ttl_ms)])
        self.context.drop_near((key,))
        if reply.__class__ is bytes:
            return True
        with Later() as later:
            try:
                return was_stored(self.context, node, key, reply)
            finally:
                await later.make_calls()

    @property
    def _is_alone(self) -> bool:
        """True if a key is written at its owner and nowhere else."""
        return self.context.other is None and self.context.gutter is None

    def _track(self) -> None:
        """Ask the nodes to tell what changes, with the first read of what may be kept."""
        if self._trackings:
            return
        near = self._near
        assert near is not None  # noqa: S101  # it is what calls
        with _tracking_lock:
            if self._trackings:
                return
            self._trackings = [
                Tracking(
                    node.handshake,
                    lambda keys: near.drop_all() if keys is None else near.drop(keys),
                    partial(near.track, index),
                    partial(near.untrack, index),
                )
                for index, node in enumerate(self.nodes)
            ]

    def close(self) -> None:
        """Close the idle connections and end the tracking; the client can go on being used."""
        super().close()
        for tracking in self._trackings:
            tracking.close()
        self._trackings = []
        if self._near is not None:
            self._near.drop_all()

    def after_fork(self) -> None:
        """Let go of what threads of the parent did, in a forked child."""
        self.stats.after_fork()
        self.context.missed.after_fork()
        self._trackings = []
        if self._near is not None:
            self._near.after_fork()


class _Replay:
    """What one node of a client is told when it is back."""

    def __init__(self, client: RingClient, node: int) -> None:
        self._client = client
        self._node = node

    def tell_all(self, exchange: Exchange) -> None:
        client = self._client
        _run_over(exchange, replay(client.context, self._node, client.outbox, client.nodes[self._node].place))

    def tell_rest(self, exchange: Exchange) -> None:
        _run_over(exchange, replay_missed(self._client.context, self._node))

    def is_told(self) -> bool:
        return self._client.context.missed.count(self._node) == 0


def _run_over(exchange: Exchange, operation: Operation[None]) -> None:
    """Run an operation whose commands are all for one node over that node's probe."""
    try:
        effect = next(operation)
        while isinstance(effect, Send):
            try:
                replies = exchange([_whole(command) for _, command in effect.requests])
            except BaseException as error:  # noqa: BLE001  # the operation's to handle or let pass
                effect = operation.throw(error)
            else:
                effect = operation.send(replies)
    except StopIteration:
        return


def _whole(command: Command) -> Command:
    """Return a command that a node runs though it knows no scripts yet."""
    return command.with_source if isinstance(command, ScriptCall) else command


class QueueClient(_Client):
    """The write-behind queue nodes.

    Args:
        options: The project's settings; they name at least one node.
        clock: Where time comes from.
    """

    def __init__(self, options: WriteBehindOptions, clock: Clock = SYSTEM_CLOCK) -> None:
        timeout = options.socket_timeout + (FSYNC_MS / 1000 if options.durability != "memory" else 0)
        super().__init__(options.all_nodes, options.connect_timeout, timeout, clock)
        self.ring = Ring([(node.name, node.weight) for node in options.nodes])
        self.options = options
        self.context = QueueContext(options, self.ring, clock)
        self.stats = Stats(DrainCounts)
        _CLIENTS.add(self)
        for node in self.nodes:
            node.breaker = Breaker(node.name, clock, _QUEUE_PROBE_SECONDS)

    def after_fork(self) -> None:
        """Let go of what threads of the parent counted, in a forked child."""
        self.stats.after_fork()

    def fold_one(self, partition: Partition, write: RowWrite) -> Folded:
        """Fold one row's write: ``protocol.fold`` without its generator where one reply is all of it."""
        requests = fold_requests(self.context, partition, [write])
        if len(requests) == 1:
            [(node, command)] = requests
            reply = self.nodes[node].call(command)
            is_known = not (isinstance(reply, NodeReplyError) and reply.code == "NOSCRIPT")
            if is_known and (found := found_of(self.context, partition, 1, [reply])) is not None:
                return found
        [found] = self.run(fold(self.context, [(partition, [write])]))
        return found


_CLIENTS: WeakSet[RingClient | QueueClient] = WeakSet()
_tracking_lock = threading.Lock()


def _after_fork() -> None:
    global _tracking_lock  # noqa: PLW0603  # another thread may have held the old one
    _tracking_lock = threading.Lock()
    for client in _CLIENTS:
        client.after_fork()


os.register_at_fork(after_in_child=_after_fork)
