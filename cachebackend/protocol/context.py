"""The context of every operation: one alias' ring, codec, options, clock and counters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cachebackend.clock import Clock, LogRateLimit
from cachebackend.codec import Codec, Kind, kind_of
from cachebackend.counters import Counters, Counts
from cachebackend.effects import Reply
from cachebackend.errors import NodeUnavailableError, RecordError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.key_counts import KeySamples
from cachebackend.near.cache import NearCache
from cachebackend.options import RingOptions
from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedDeletes, MissedKeys
from cachebackend.protocol.orphans import Orphans
from cachebackend.protocol.rounds import FailNode, node_failure
from cachebackend.ring import CLUSTER_SLOTS, ClusterRing, Ring

__all__ = ["Context", "Gutter", "RingChange"]

logger = logging.getLogger("cachebackend")
#: The kinds of records that are not values.
_PLACEHOLDERS = frozenset({Kind.LEASE, Kind.QUARANTINE, Kind.TAG})
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RingChange:
    """The other ring, while settings name two: the old ring or the new one.

    Attributes:
        ring: Its table.
        indexes: The index of each of its nodes among the client's nodes; None: those of the table, as a
            cluster's table has them.
        is_old: Whether it is the old ring (``leaving``); else it is the new one (``joining``).
        is_warm: Whether a miss reads it.
    """

    ring: Ring | ClusterRing
    indexes: tuple[int, ...] | None
    is_old: bool
    is_warm: bool

    def owner(self, key: bytes) -> int:
        """Return the index of the node that owns a key in this ring."""
        owner = self.ring.owner(key)
        return owner if self.indexes is None else self.indexes[owner]

    @property
    def nodes(self) -> Sequence[int]:
        """The indexes of the nodes of this ring."""
        return self.ring.nodes if self.indexes is None else self.indexes

    @property
    def holders(self) -> Sequence[int]:
        """The indexes of the nodes that may have keys of this ring."""
        return self.ring.holders if self.indexes is None else self.indexes


@dataclass(frozen=True, slots=True)
class Gutter:
    """The spare ring that holds the keys of ejected nodes.

    Attributes:
        ring: Its table.
        nodes: The index of each of its nodes among the client's nodes.
        max_ttl_ms: The longest time that it keeps a key, in milliseconds.
        is_ejected: Returns whether a node (by its index) is ejected.
    """

    ring: Ring
    nodes: tuple[int, ...]
    max_ttl_ms: int
    is_ejected: Callable[[int], bool]

    @property
    def holders(self) -> Sequence[int]:
        """The indexes of its nodes."""
        return self.nodes

    def owner(self, key: bytes) -> int:
        """Return the index of the node that owns a key in this ring."""
        return self.nodes[self.ring.owner(key)]


@dataclass(slots=True)
class Context:
    """One alias' ring, codec, options, clock and counters."""

    ring: Ring | ClusterRing
    codec: Codec
    options: RingOptions
    clock: Clock
    counters: Counters[Counts]
    #: The copies in this process; None: the settings ask for none.
    near: NearCache | None = None
    #: The other ring, while the ring changes.
    ring_change: RingChange | None = None
    #: Where keys of ejected nodes are stored; None: the settings name no gutter.
    gutter: Gutter | None = None
    #: The deletes that each node missed.
    missed: MissedDeletes = field(init=False)
    #: The leases that this process has given up.
    orphans: Orphans = field(default_factory=Orphans, init=False)
    #: Called with each node that may hold an orphan lease.
    on_orphan: Callable[[int], None] | None = None
    #: Called with each node that missed deletes, and with those that an outbox must store.
    on_missed: Callable[[int, MissedKeys], None] | None = None
    #: Records that a node has failed although it answers.
    fail_node: FailNode = node_failure
    #: The Redis patterns that match the keys of the aliases that share the client.
    patterns: set[bytes] = field(default_factory=set)
    #: The tags that the values of some keys had when this process last read them; a guess for the next read.
    known_tags: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    #: Milliseconds that a lease lives.
    lease_ms: int = field(init=False)
    #: The nodes (by index) that do not support ``SET … IFEQ``.
    without_ifeq: set[int] = field(default_factory=set)
    #: What is counted of keys by group.
    samples: KeySamples = field(default_factory=KeySamples, init=False)
    #: The shards of the registry of shapes that were full, and until when that is believed (``shapes``).
    full_shards: dict[bytes, float] = field(default_factory=dict)
    _log_limits: dict[str, LogRateLimit] = field(default_factory=dict, init=False)
    _strict: Context | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.missed = MissedDeletes(self.options.replay_limit, self.clock)
        self.lease_ms = max(1, int(self.options.lease_timeout * 1000))

    @property
    def has_one_owner(self) -> bool:
        """Whether a key can be stored at its owner only: the ring does not change, and has no gutter."""
        return self.ring_change is None and self.gutter is None

    def end_get(self, begun: float, key: bytes, reply: Reply) -> None:
        """Count a timed get of a key: its time, and whether the reply is a value.

        Args:
            begun: What ``Counters.begin_get`` returned.
            key: The key.
            reply: The reply.
        """
        self.counters.end_get(begun)
        self.samples.add_get(key, is_hit=_is_value(reply))

    def serving_node(self, key: bytes) -> int:
        """Return the node that serves a key: its owner, or the gutter's node while the owner is ejected."""
        node = self.ring.owner(key)
        if self.gutter is None or not self.gutter.is_ejected(node):
            return node
        return self.gutter.owner(key)

    def by_serving_node(self, keys: Iterable[tuple[bytes, T]]) -> dict[int, list[T]]:
        """Group the items that come with keys by the keys' serving nodes."""
        if self.gutter is None:
            return self.ring.by_owner(keys)
        groups: dict[int, list[T]] = {}
        for key, item in keys:
            groups.setdefault(self.serving_node(key), []).append(item)
        return groups

    def ttl_at(self, node: int, ttl_ms: int) -> int:
        """Return the time to live of a key at a node; the gutter's is limited. 0 or less is special."""
        if self.gutter is None or node not in self.gutter.nodes:
            return ttl_ms
        return self.gutter.max_ttl_ms if ttl_ms <= 0 else min(ttl_ms, self.gutter.max_ttl_ms)

    @property
    def rings(self) -> Sequence[Ring | ClusterRing]:
        """The ring, and the other one while the ring changes."""
        return (self.ring,) if self.ring_change is None else (self.ring, self.ring_change.ring)

    def owners(self, key: bytes) -> set[int]:
        """Return the owners of a key: in this ring, and in the other one while the ring changes."""
        return {self.ring.owner(key)} | ({self.ring_change.owner(key)} if self.ring_change else set())

    def holders(self, key: bytes) -> set[int]:
        """Return the nodes that may hold a key, the gutter's included."""
        return self.owners(key) | ({self.gutter.owner(key)} if self.gutter is not None else set())

    def may_hold(self, node: int, key: bytes) -> bool:
        """Return whether a node may hold a key, the gutter's included."""
        return node in self.holders(key)

    def for_strict(self) -> Context:
        """Return the context of strict keys, which are never stored in the gutter or copied."""
        if self.gutter is None and self.near is None:
            return self
        if self._strict is None:
            self._strict = copy(self)
            self._strict.gutter = self._strict.near = None
        return self._strict

    def without_near(self) -> Context:
        """Return the context of reads that neither use this process's copies nor store new ones."""
        if self.near is None:
            return self
        fresh = copy(self)
        fresh.near = None
        return fresh

    def drop_near(self, keys: Iterable[bytes]) -> None:
        """Drop this process's copies of keys: before a write is sent, and when its reply has come."""
        if self.near is not None:
            self.near.drop(keys)

    def record_missed(self, node: int, keys: Iterable[bytes], *, in_outbox: bool = False) -> None:
        """Record that a node missed deletes. They are replayed to it before it serves reads again.

        Args:
            node: The index of the node.
            keys: The keys that it may still hold. In a cluster they may have moved meanwhile, and even while
                they are recorded: then they are recorded again.
            in_outbox: Whether an outbox stores the keys already.
        """
        missed = tuple(keys)
        self.counters.cell.deletes_missed += len(missed)
        self.record_again(node, missed, in_outbox=in_outbox)

    def record_again(self, node: int, missed: Sequence[bytes], *, in_outbox: bool) -> None:
        """Record missed deletes that are counted already; arguments as for ``record_missed``."""
        while missed:
            by_holder: dict[int, list[bytes]] = {}
            for key in missed:
                by_holder.setdefault(self.holder(node, key), []).append(key)
            for holder, held in by_holder.items():
                self._record(holder, MissedKeys(tuple(held)), in_outbox)
            groups = by_holder.items()
            missed = [key for holder, held in groups for key in held if self.holder(node, key) != holder]

    def holder(self, node: int, key: bytes) -> int:
        """Return the node that has a key now, if a node had it before: in a cluster it may have moved."""
        holder = self.ring.holder(node, key)
        return holder if self.ring_change is None else self.ring_change.ring.holder(holder, key)

    def served_holder(self, node: int, key: bytes) -> int | None:
        """Return what ``holder`` returns; None: no server of the cluster has the slot of the key."""
        holder = self.holder(node, key)
        rings = [ring for ring in self.rings if isinstance(ring, ClusterRing) and ring.has_member(holder)]
        return None if any(ring.slot_of(key) in ring.unserved for ring in rings) else holder

    def served_slot(self, node: int) -> int | None:
        """Return a slot of a cluster that a node serves; None: it is a server of a cluster, and serves none.

        It is another one each time: one of them may be moving. A node that is not a server of a cluster
        serves keys of any slot.
        """
        rings = [ring for ring in self.rings if isinstance(ring, ClusterRing) and ring.has_member(node)]
        first = int(self.clock.random() * CLUSTER_SLOTS)
        return rings[0].served_slot(node, first) if rings else 0

    def record_missed_clear(self, node: int) -> None:
        """Record that a node missed a clear: nothing that it holds may be read any more."""
        self._record(node, ALL_KEYS, in_outbox=False)

    def _record(self, node: int, missed: MissedKeys, in_outbox: bool) -> None:
        new = self.missed.add(node, missed)
        if self.on_missed is not None:
            self.on_missed(node, MissedKeys() if in_outbox else new)

    def give_up(self, node: int, key: bytes, record: bytes) -> None:
        """Remember a lease that a node may hold although this process does not use it any more."""
        self.orphans.add(node, key, record)
        if self.on_orphan is not None:
            self.on_orphan(node)

    def reply_or(self, reply: Reply, missing: Any) -> Any:
        """Return a reply, or ``missing`` for a node that did not answer.

        Raises:
            NodeUnavailableError: The node did not answer and ``on_node_failure`` is "raise".
            NodeReplyError: The node refused the command.
        """
        if not isinstance(reply, RingCacheError):
            return reply
        if isinstance(reply, NodeUnavailableError):
            self.counters.cell.node_failures += 1
            if self.options.on_node_failure == "miss":
                self.log_limited("node_failed", "%s; the key is treated as a miss", reply)
                return missing
        raise reply

    def undecodable(self, error: RecordError) -> None:
        """Count a record that cannot be decoded."""
        self.counters.cell.undecodable += 1
        self.log_limited("record_undecodable", "%s; the key is treated as a miss", error)

    def fills_refused(self, count: int) -> None:
        """Count fills that were refused because their leases were revoked."""
        self.counters.cell.stale_sets_refused += count
        if count and (reported := self._count_event("fills_refused", count)):
            text = "%d fills were refused: their keys were invalidated during the load"
            logger.info(text, reported, extra={"event": "fills_refused", "count": reported})

    def log_limited(self, event: str, text: str, error: Exception) -> None:
        """Log an event at most once a minute, with the number of events since the last message."""
        if reported := self._count_event(event):
            logger.warning(text, error, extra={"event": event, "count": reported, "error": str(error)})

    def _count_event(self, event: str, count: int = 1) -> int:
        limit = self._log_limits.get(event) or self._log_limits.setdefault(event, LogRateLimit(self.clock))
        return limit.to_log(count)


def _is_value(reply: Reply) -> bool:
    try:
        return isinstance(reply, bytes) and kind_of(reply) not in _PLACEHOLDERS
    except RecordError as error:
        raise_interrupt(error)
        return False
