"""The client of one cache alias: its ring, nodes, codec and counters, one for each process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cachebackend.client.base import CLIENTS
from cachebackend.client.postponed import PostponedDeletes
from cachebackend.client.replay import Replay
from cachebackend.client.single import SingleKeyClient
from cachebackend.client.trackings import Trackings
from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.cluster import Cluster, ShardNode
from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.drivers import DeferredCalls, FailedNodes
from cachebackend.effects import Command, Operation
from cachebackend.interrupts import raise_interrupt
from cachebackend.near.cache import NearCache
from cachebackend.node import Breaker, Node, PromiseWait, ReplicaWait
from cachebackend.node.translate import CONNECTION_ERRORS
from cachebackend.options import ClusterAddress, NodeAddress, RingOptions
from cachebackend.protocol import Context
from cachebackend.protocol.context import Gutter, RingChange
from cachebackend.protocol.missed_deletes import MissedKeys, Outbox
from cachebackend.protocol.ring.node_deletes import delete_command
from cachebackend.query_counts import QueryCounts
from cachebackend.ring import Ring, seed_of
from cachebackend.threads import call_in_thread

__all__ = ["RingClient"]

if TYPE_CHECKING:
    from cachebackend.node.clients import RedisClient

logger = logging.getLogger("cachebackend")
T = TypeVar("T")
#: The most seconds between two probes of a shard of a cluster: a process that has missed deletes must notice
#: soon that a replica was promoted, because other processes may read it already.
CLUSTER_PROBE_SECONDS = 0.25


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
        timeouts = options.connect_timeout, options.socket_timeout
        nodes = [Node(node, *timeouts, clock) for node in options.all_nodes]
        plain = len(nodes)
        self.cluster = _cluster(options.cluster, options, clock, nodes)
        other_cluster = _cluster(options.joining_cluster or options.leaving_cluster, options, clock, nodes)
        super().__init__(nodes)
        self.ring = _ring(options.nodes, options) if self.cluster is None else self.cluster.ring
        self._plain_nodes = range(plain)
        #: Whether a cluster or Sentinel promotes replicas. Then plain nodes, those of the other ring or the
        #: gutter, have none.
        self._has_failover = any(node.handshake.may_move for node in nodes)
        #: The cluster, and that of the other ring while a ring changes, as far as they are clusters.
        self.clusters = [each for each in (self.cluster, other_cluster) if each is not None]
        self.counters = Counters(Counts)
        self.query_counts = Counters(QueryCounts)
        codec = Codec(
            options.codec, options.compressor, options.compress_over_bytes, secrets, options.max_value_bytes
        )
        self.context = Context(self.ring, codec, options, clock, self.counters)
        self.context.ring_change = _ring_change(options, other_cluster)
        if options.gutter:
            self.context.gutter = Gutter(
                _ring(options.gutter, options),
                _indexes(options.gutter, options),
                max(1, int(options.gutter_timeout * 1000)),
                lambda node: self.nodes[node].is_ejected,
            )
        self._hits: set[bytes] = set()
        self._near: NearCache | None = None
        self._trackings: Trackings | None = None
        if options.near is not None:
            self.context.near = self._near = NearCache(options.near, clock)
            self._trackings = Trackings(self._near, self.nodes, self._indexes, is_cluster=bool(self.clusters))
            self._near.on_read = self._trackings.start
        self._postponed = PostponedDeletes(
            partial(_has_postponed, self.context),
            partial(_holders_of_postponed, self.context, self.nodes, self.clusters),
        )
        #: Stores missed deletes so that they survive the process. None: nothing does; a warning is logged.
        self.outbox: Outbox | None = None
        self._has_warned = False
        self.context.fail_node = self.fail_node
        self.context.on_missed = self._on_missed
        self.context.on_orphan = lambda node: self.nodes[node].release_orphans()
        for index, node in enumerate(self.nodes):
            self._prepare(index, node)
        for cluster in self.clusters:
            cluster.on_node, cluster.rehome = self._prepare, partial(self._rehome, cluster)
            cluster.on_asked = self.context.drop_near
            if self._trackings is not None:
                cluster.on_change = self._trackings.update
        CLIENTS.add(self)

    def _prepare(self, index: int, node: Node) -> None:
        """Prepare a node of the ring for use."""
        clock = self.context.clock
        if isinstance(node, ShardNode):
            # A replica is promoted soon, so one failure is enough, and probes are frequent
            node.breaker = Breaker(node.name, clock, CLUSTER_PROBE_SECONDS, opens_on_timeout=True)
            node.on_moved = partial(self._moved, index)
            node.on_postponed = partial(self._postpone, index)
            node.postponed = partial(self._postponed_deletes, index)
        else:
            node.breaker = Breaker(node.name, clock)
        if (node.handshake.may_move or not self._has_failover) and (
            wait := self.context.options.wait_replicas
        ):
            node.promise_wait = PromiseWait(ReplicaWait(wait, self.context.options.socket_timeout))
        node.replay = Replay(self.context, index, node.endpoint, lambda: self.outbox)

    def _postpone(self, index: int, keys: Sequence[bytes]) -> bool:
        """Record deletes that no server could confirm; return whether they are recorded.

            1. probe    of A replays a delete; A answers ``ASK``, and the server that it names cannot be asked
            2. process  reads the topology: the slot is B's, and B has missed nothing, as far as is known
            3. probe    postpones the delete: B, which is up, must not be read before it has got it

        If 2 comes after 3, B gets the delete with the table.
        """
        is_recorded = self.context.missed.postpone(index, keys)
        for holder in {self.context.holder(index, key) for key in keys} - {index}:
            if is_recorded and isinstance(node := self.nodes[holder], ShardNode):
                node.hold_if_up("its slots have moved to it; the deletes that failed meanwhile come first")
        if is_recorded:
            self._postponed.retry_soon()
        return is_recorded

    def _postponed_deletes(self, index: int) -> dict[Hashable, Command]:
        """Return the deletes that were postponed in the cluster of a shard, by key and number."""
        postponed = self.context.missed.postponed(self._shards_beside(index))
        return {each: delete_command(each[:1]).with_source for each in postponed}

    def _moved(self, index: int) -> None:
        """Handle a shard that has got another primary."""
        if self._trackings is not None:
            self._trackings.node_moved(index)

    def _rehome(
        self, cluster: Cluster, owner: Callable[[bytes], int], moves: Collection[tuple[int, int]]
    ) -> set[int]:
        """Handle slots of a cluster that get other owners; return those that have got missed deletes."""
        if self._near is not None:
            self._near.drop_all()
        return self.context.missed.rehome(owner, moves, cluster.shards.keys())

    @property
    def indexes(self) -> Sequence[int]:
        """The indexes of the nodes that may hold keys: all, but of a cluster only those that own slots."""
        for cluster in self.clusters:
            cluster.try_load()
        return self._indexes()

    def _indexes(self) -> Sequence[int]:
        shards = [index for cluster in self.clusters for index in cluster.ring.nodes]
        return [*self._plain_nodes, *shards] if shards else self._plain_nodes

    @property
    def holders(self) -> Sequence[int]:
        """The indexes of the nodes that may hold keys, also those to which their first slots move."""
        return [*self._plain_nodes, *(index for cluster in self.clusters for index in cluster.ring.holders)]

    def run(self, operation: Operation[T], failed: FailedNodes | None = None) -> T:
        """Run an operation in the calling thread, without the nodes that have failed in it already."""
        for cluster in self.clusters:
            cluster.try_load()  # an operation may be for all nodes
        return super().run(operation, failed)

    async def arun(self, operation: Operation[T]) -> T:
        """Run an operation in the running event loop."""
        for cluster in self.clusters:
            if cluster.is_due:
                await call_in_thread(cluster.try_load)
        return await super().arun(operation)

    def _on_missed(self, node: int, missed: MissedKeys) -> None:
        """Store what a node missed, and start its replay as soon as it answers."""
        if missed:
            DeferredCalls.call(partial(self._store_missed, node, missed))
        self._replay_missed(node)

    def _replay_missed(self, index: int) -> None:
        """Replay a delete to a node, which is ejected first if a shard of its cluster has just taken over.

        1. writer   deletes a key at A, or at B, which redirects it to A, and waits for A's replica C
        2. cluster  promotes C; this process has replayed what C has missed, and reads it
        3. writer   C does not confirm to A: the delete is missed, and C may have the key
        4. reader   of this process must not ask C, or B, before the delete was replayed
        """
        node = self.nodes[index]
        shards = self._shards_beside(index).values()
        if isinstance(node, ShardNode) and any(shard.has_just_taken_over for shard in shards):
            node.hold_if_up("a shard has taken over while a delete was under way to its former primary")
        else:
            node.request_replay()

    def _shards_beside(self, index: int) -> Mapping[int, ShardNode]:
        """Return the shards of a shard's cluster by their indexes."""
        return next((each.shards for each in self.clusters if index in each.shards), {})

    def probe_ejected(self) -> bool:
        """Probe the ejected shards of a cluster, and wait, if deletes wait for replicas too.

        A replica that was promoted may be read by other processes before this one has noticed:

            1. cluster  promotes a replica of the shard whose primary has died
            2. reader   its process probes the shard, replays what is missed, and reads the promoted server
            3. writer   COMMIT; in its process the shard is still ejected: the delete is missed
            4. writer   probes the shard at once; the probe finds the promoted server, and replays the delete

        Returns:
            Whether a shard serves again.
        """
        if not self.context.options.wait_replicas:
            return False
        ejected = [self.nodes[index] for index in self._indexes() if self.nodes[index].is_ejected]
        served = [node.probe_now() for node in ejected if isinstance(node, ShardNode)]
        return any(served)

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

    def redis(self, key: bytes) -> RedisClient:
        """Return a redis-py client of the node that owns a key; in a cluster, it follows redirections.

        Raises:
            OSError: No server of the cluster answers, or no sentinel knows the primary.
        """
        if self.cluster is not None:
            return self.cluster.redis(key)
        return self.nodes[self.ring.owner(key)].redis()

    def has_near_copy(self, key: bytes) -> bool | None:
        """Return whether the near cache has a copy of a key; None: the alias has no near cache."""
        return None if self._near is None else self._near.has_copy(key)

    def close(self) -> None:
        """Close the idle connections and end the tracking. The client can still be used afterwards."""
        super().close()
        if self._trackings is not None:
            self._trackings.close()
        if self._near is not None:
            self._near.drop_all()

    def after_fork(self) -> None:
        """Start again without the parent's threads, locks and counts, in a forked child."""
        self.counters.after_fork()
        self.query_counts.after_fork()
        self.context.samples.after_fork()
        self.context.missed.after_fork()
        self.context.orphans.after_fork()
        self._postponed.after_fork()
        if self._trackings is not None:
            self._trackings.after_fork()
        if self._near is not None:
            self._near.after_fork()


def _has_postponed(context: Context) -> bool:
    return context.missed.has_postponed


def _holders_of_postponed(
    context: Context, nodes: Sequence[Node], clusters: Iterable[Cluster]
) -> Iterator[Node]:
    """Yield the nodes that have the keys of postponed deletes, of the slots that a server has now."""
    for cluster in clusters:
        if cluster.ring.unserved:
            try:
                cluster.reload()
            except CONNECTION_ERRORS as error:  # commands report it
                raise_interrupt(error)
    for index in context.missed.holders_of_postponed(context.served_holder):
        yield nodes[index]


def _cluster(
    address: ClusterAddress | None, options: RingOptions, clock: Clock, nodes: list[Node]
) -> Cluster | None:
    """Return a cluster whose shards are added to some nodes."""
    if address is None:
        return None
    timeouts = options.connect_timeout, options.socket_timeout
    return Cluster(
        address,
        timeouts,
        clock,
        password=options.password,
        address_map=options.address_map,
        nodes=nodes,
    )


def _ring_change(options: RingOptions, other_cluster: Cluster | None) -> RingChange | None:
    """Return the other ring of a change; None: the ring does not change."""
    is_old = bool(options.leaving or options.leaving_cluster)
    is_warm = is_old and options.warm
    if others := options.joining or options.leaving:
        return RingChange(_ring(others, options), _indexes(others, options), is_old, is_warm)
    return None if other_cluster is None else RingChange(other_cluster.ring, None, is_old, is_warm)


def _indexes(nodes: Sequence[NodeAddress], options: RingOptions) -> tuple[int, ...]:
    """Return the index of each node among those of the client."""
    endpoints = [node.endpoint for node in options.all_nodes]
    return tuple(endpoints.index(node.endpoint) for node in nodes)


def _ring(nodes: Sequence[NodeAddress], options: RingOptions) -> Ring:
    """Return a ring of some of the alias' nodes; all rings of an alias have one seed."""
    return Ring([(node.name, node.weight) for node in nodes], seed_of(options.hash_seed))
