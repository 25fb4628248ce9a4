"""Where the parts meet: the ring, nodes, codec and counters of one alias, once a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.codec import Codec
from cachebackend.drivers import adrive, drive
from cachebackend.effects import Operation, Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.near.cache import MISS, NearCache
from cachebackend.node import Breaker, Exchange, Node, Tracking
from cachebackend.options import NodeAddress, RingOptions, WriteBehindOptions
from cachebackend.protocol import Context, QueueContext, get, has_vouchers, set_, value_of
from cachebackend.protocol.context import Gutter, OtherRing
from cachebackend.protocol.folding import FSYNC_MS, Folded, RowWrite, fold, fold_requests, found_of
from cachebackend.protocol.partitions import Partition
from cachebackend.protocol.reading import NOT_PLAIN, plain_value
from cachebackend.protocol.writing import set_command, was_stored
from cachebackend.ring import Ring
from cachebackend.stats import Stats

__all__ = ["QueueClient", "RingClient"]

T = TypeVar("T")
#: Keys in one command of a replay.
_KEYS_AT_ONCE = 1000
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
        self.stats = Stats()
        codec = Codec(options.codec, options.compressor, options.compress_over_bytes, secrets)
        self.context = Context(self.ring, codec, options, clock, self.stats)
        if others := options.joining or options.leaving:
            names = [node.name for node in self.nodes]
            self.context.other = OtherRing(
                Ring([(node.name, node.weight) for node in others]),
                tuple(names.index(node.name) for node in others),
                is_left=bool(options.leaving),
                is_warm=bool(options.leaving) and options.warm,
            )
        if options.gutter:
            names = [node.name for node in self.nodes]
            self.context.gutter = Gutter(
                Ring([(node.name, node.weight) for node in options.gutter]),
                tuple(names.index(node.name) for node in options.gutter),
                max(1, int(options.gutter_timeout * 1000)),
                lambda node: self.nodes[node].is_ejected,
            )
        self._near: NearCache | None = None
        self._trackings: list[Tracking] = []
        if options.near is not None:
            near = options.near
            self._near = NearCache(near.max_entries, near.max_age, near.policy, clock)
            self._near.on_read = self._track
            self.context.near = self._near
        #: The patterns of the keys of the aliases that share this client.
        self.patterns: set[bytes] = set()
        #: Keeps keys that nodes missed where a crash does not lose them; and tells those that anybody did.
        self.keep_missed: Callable[[list[bytes]], None] | None = None
        self.owed_keys: Callable[[], Iterable[bytes]] | None = None
        self.context.on_missed = self._on_missed
        for index, node in enumerate(self.nodes):
            node.breaker = Breaker(node.name, clock)
            node.on_return = partial(self._replay, index)
        _CLIENTS.add(self)

    def _on_missed(self, node: int, keys: list[bytes]) -> None:
        """Keep what a node missed, and have it told as soon as it answers."""
        if keys and self.keep_missed is not None:
            self.keep_missed(keys)
        self.nodes[node].tend()

    def _replay(self, node: int, exchange: Exchange) -> None:
        """Tell a node that is back what it missed: by this process, and by all, as far as they could say.

        What a thread notes while the last keys are told, or of a command that was under way
        when the breaker closed, starts another round: ``note_missed`` has the node tended.
        """
        everything = False
        keys = (
            [] if self.owed_keys is None else [k for k in self.owed_keys() if self.context.may_hold(node, k)]
        )
        try:
            while True:
                everything, missed = self.context.missed.take(node)
                keys += missed
                if everything:
                    self._clear(exchange)
                elif keys:
                    for at in range(0, len(keys), _KEYS_AT_ONCE):
                        exchange([(b"DEL", *keys[at : at + _KEYS_AT_ONCE])])
                    self.stats.cell.deletes_replayed += len(keys)
                else:
                    return
                keys = []
        except BaseException:
            self.context.missed.add(node, keys)
            if everything:
                self.context.missed.add_everything(node)
            raise

    def _clear(self, exchange: Exchange) -> None:
        for pattern in self.patterns:
            cursor = b"0"
            while True:
                [(cursor, found)] = exchange([(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _KEYS_AT_ONCE)])
                if found:
                    exchange([(b"UNLINK", *found)])
                if cursor == b"0":
                    break

    @property
    def has_near(self) -> bool:
        """Whether there is a near cache."""
        return self._near is not None

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
        node = self.ring.owner(key)
        reply = self.nodes[node].call((b"GET", key))
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
        node = self.ring.owner(key)
        [reply] = await self.nodes[node].submit([(b"GET", key)])
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
        return reply.__class__ is bytes or was_stored(self.context, node, key, reply)

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
        for node in self.nodes:
            node.breaker = Breaker(node.name, clock, _QUEUE_PROBE_SECONDS)

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


_CLIENTS: WeakSet[RingClient] = WeakSet()
_tracking_lock = threading.Lock()


def _after_fork() -> None:
    global _tracking_lock  # noqa: PLW0603  # another thread may have held the old one
    _tracking_lock = threading.Lock()
    for client in _CLIENTS:
        client.after_fork()


os.register_at_fork(after_in_child=_after_fork)
