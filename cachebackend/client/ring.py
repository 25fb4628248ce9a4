"""The client of one cache alias: its ring, nodes, codec and counters, one for each process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial

from cachebackend.client.base import CLIENTS
from cachebackend.client.replay import Replay
from cachebackend.client.single import SingleKeyClient
from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.cluster import Cluster
from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.drivers import DeferredCalls
from cachebackend.interrupts import raise_interrupt
from cachebackend.near.cache import NearCache
from cachebackend.node import Breaker, Node, ReplicaWait, Tracking
from cachebackend.options import NodeAddress, RingOptions
from cachebackend.protocol import Context
from cachebackend.protocol.context import Gutter, RingChange
from cachebackend.protocol.missed_deletes import MissedKeys, Outbox
from cachebackend.query_counts import QueryCounts
from cachebackend.ring import Ring, seed_of
from cachebackend.threads import is_thread_refused

__all__ = ["RingClient"]

logger = logging.getLogger("cachebackend")
#: The most seconds between two probes of a server of a cluster that does not answer.
CLUSTER_PROBE_SECONDS = 2.0


class RingClient(SingleKeyClient):
    """One cache alias, shared by all threads and tasks of the process.

    Args:
        options: The alias' settings.
        clock: The source of time, random numbers and tokens.
        secrets: Returns the secrets that signed values are checked with; the first one signs.
    """

    def __init__(
        self,
        options: RingOptions,
        clock: Clock = SYSTEM_CLOCK,
        secrets: Callable[[], Sequence[bytes]] = tuple,
    ) -> None:
        self.cluster = _cluster(options, clock)
        super().__init__(_nodes(options, clock) if self.cluster is None else self.cluster.nodes)
        self.ring = _ring(options.nodes, options) if self.cluster is None else self.cluster.ring
        self.counters = Counters(Counts)
        self.query_counts = Counters(QueryCounts)
        codec = Codec(
            options.codec, options.compressor, options.compress_over_bytes, secrets, options.max_value_bytes
        )
        self.context = Context(self.ring, codec, options, clock, self.counters)
        endpoints = [node.endpoint for node in options.all_nodes]
        if others := options.joining or options.leaving:
            self.context.ring_change = RingChange(
                _ring(others, options),
                tuple(endpoints.index(node.endpoint) for node in others),
                is_old=bool(options.leaving),
                is_warm=bool(options.leaving) and options.warm,
            )
        if options.gutter:
            self.context.gutter = Gutter(
                _ring(options.gutter, options),
                tuple(endpoints.index(node.endpoint) for node in options.gutter),
                max(1, int(options.gutter_timeout * 1000)),
                lambda node: self.nodes[node].is_ejected,
            )
        self._near: NearCache | None = None
        self._trackings: list[Tracking] = []
        self._is_tracking = False
        if options.near is not None:
            self._near = NearCache(options.near, clock)
            self._near.on_read = self._track
            self.context.near = self._near
        #: Stores missed deletes so that they survive the process. None: nothing does; a warning is logged.
        self.outbox: Outbox | None = None
        self._has_warned = False
        self.context.fail_node = self.fail_node
        self.context.on_missed = self._on_missed
        self.context.on_orphan = lambda node: self.nodes[node].release_orphans()
        for index, node in enumerate(self.nodes):
            self._prepare(index, node)
        if self.cluster is not None:
            self.cluster.on_node, self.cluster.rehome = self._prepare, self.context.missed.rehome
        CLIENTS.add(self)

    def _prepare(self, index: int, node: Node) -> None:
        """Prepare a node of the ring for use."""
        if self.cluster is None:
            node.breaker = Breaker(node.name, self.context.clock)
        else:  # a cluster promotes a replica soon, so one failure is enough, and probes are frequent
            node.breaker = Breaker(
                node.name, self.context.clock, CLUSTER_PROBE_SECONDS, opens_on_timeout=True
            )
        if wait := self.context.options.wait_replicas:
            node.replica_wait = ReplicaWait(wait, self.context.options.socket_timeout)
        node.replay = Replay(self.context, index, node.endpoint, lambda: self.outbox)

    def _on_missed(self, node: int, missed: MissedKeys) -> None:
        """Store what a node missed, and start its replay as soon as it answers."""
        if missed:
            DeferredCalls.call(partial(self._store_missed, node, missed))
        self.nodes[node].request_replay()

    def _store_missed(self, node: int, missed: MissedKeys) -> None:
        since = self.context.clock.monotonic()
        if self.outbox is None:
            self._warn_without_outbox()
        elif self.outbox.keep(self.nodes[node].endpoint, missed):
            self.context.missed.kept(node, missed, since)

    def _warn_without_outbox(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "missed deletes are stored only in the memory of each process and are lost when it ends; "
                "add 'cachebackend' to INSTALLED_APPS and migrate"
            )

    def has_near_copy(self, key: bytes) -> bool | None:
        """Return whether the near cache has a copy of a key; None: the alias has no near cache."""
        return None if self._near is None else self._near.has_copy(key)

    def _track(self) -> None:
        """Start tracking on the nodes, with the first read that may store a copy."""
        if self._is_tracking:
            return
        with _tracking_lock:
            # A signal handler may raise anywhere here, so the next read continues
            self._trackings = self._trackings or [self._tracking(index) for index in range(len(self.nodes))]
            for tracking in self._trackings:
                try:
                    tracking.start()
                except RuntimeError as error:
                    raise_interrupt(error)
                    if not is_thread_refused(error):
                        raise
                    return  # the next read tries again; until then no copies of this node are stored
            self._is_tracking = True

    def _tracking(self, index: int) -> Tracking:
        near = self._near
        assert near is not None  # noqa: S101  # it is what calls
        return Tracking(
            self.nodes[index].handshake,
            lambda keys: near.drop_all() if keys is None else near.drop(keys),
            partial(near.tracking_opened, index),
            partial(near.tracking_lost, index),
        )

    def close(self) -> None:
        """Close the idle connections and end the tracking. The client can still be used afterwards."""
        super().close()
        with _tracking_lock:
            self._is_tracking = False
            for tracking in self._trackings:
                tracking.close()
            self._trackings = []
        if self._near is not None:
            self._near.drop_all()

    def after_fork(self) -> None:
        """Start again without the parent's threads, locks and counts, in a forked child."""
        self.counters.after_fork()
        self.query_counts.after_fork()
        self.context.missed.after_fork()
        self.context.orphans.after_fork()
        self._trackings, self._is_tracking = [], False
        if self._near is not None:
            self._near.after_fork()


def _nodes(options: RingOptions, clock: Clock) -> Sequence[Node]:
    timeouts = options.connect_timeout, options.socket_timeout
    return [Node(node, *timeouts, clock) for node in options.all_nodes]


def _cluster(options: RingOptions, clock: Clock) -> Cluster | None:
    if options.cluster is None:
        return None
    timeouts = options.connect_timeout, options.socket_timeout
    return Cluster(options.cluster, timeouts, clock, options.password, options.address_map)


def _ring(nodes: Sequence[NodeAddress], options: RingOptions) -> Ring:
    """Return a ring of some of the alias' nodes; all rings of an alias have one seed."""
    return Ring([(node.name, node.weight) for node in nodes], seed_of(options.hash_seed))


_tracking_lock = threading.Lock()


def _after_fork() -> None:
    global _tracking_lock  # noqa: PLW0603  # another thread may have held the old one
    _tracking_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
