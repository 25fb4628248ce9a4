"""What every operation works with, and how it takes an answer that is a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cachebackend.clock import Clock, LogRateLimit
from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.effects import Reply
from cachebackend.errors import NodeUnavailableError, RecordError, RingCacheError
from cachebackend.near.cache import NearCache
from cachebackend.options import RingOptions
from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedDeletes, MissedKeys
from cachebackend.ring import Ring

__all__ = ["Context", "Gutter", "RingChange"]

logger = logging.getLogger("cachebackend")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RingChange:
    """The ring that is being entered or left, as settings that name two rings have it.

    Attributes:
        ring: Its table.
        nodes: The index of each of its nodes among the client's.
        is_old: Whether it is the one that is left.
        is_warm: Whether a miss looks there.
    """

    ring: Ring
    nodes: tuple[int, ...]
    is_old: bool
    is_warm: bool

    def owner(self, key: bytes) -> int:
        """Return the index of the node that owns a key there."""
        return self.nodes[self.ring.owner(key)]


@dataclass(frozen=True, slots=True)
class Gutter:
    """The spare ring that takes the keys of nodes that are ejected.

    Attributes:
        ring: Its table.
        nodes: The index of each of its nodes among the client's.
        life_ms: Milliseconds that it keeps anything at most.
        is_ejected: Returns whether a node (by its index) is.
    """

    ring: Ring
    nodes: tuple[int, ...]
    life_ms: int
    is_ejected: Callable[[int], bool]

    def owner(self, key: bytes) -> int:
        """Return the index of the node that owns a key there."""
        return self.nodes[self.ring.owner(key)]


@dataclass(slots=True)
class Context:
    """One alias' ring, codec, options, clock and counters."""

    ring: Ring
    codec: Codec
    options: RingOptions
    clock: Clock
    counters: Counters[Counts]
    #: The copies in the process, if the settings want any.
    near: NearCache | None = None
    #: While the ring is changed: the one that is not LOCATION's.
    ring_change: RingChange | None = None
    #: Where keys of nodes that are down go, if the settings want that.
    gutter: Gutter | None = None
    #: What nodes were not told, and what sees to it that they are.
    missed: MissedDeletes = field(init=False)
    on_missed: Callable[[int, MissedKeys], None] | None = None
    #: What the keys of the aliases that share the client look like, as Redis patterns.
    patterns: set[bytes] = field(default_factory=set)
    #: Milliseconds that a lease lives.
    lease_ms: int = field(init=False)
    #: Nodes (by index) that were found not to know ``SET … IFEQ``.
    without_ifeq: set[int] = field(default_factory=set)
    _seldom: dict[str, LogRateLimit] = field(default_factory=dict, init=False)
    _strict: Context | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.missed = MissedDeletes(self.options.replay_limit, self.clock)
        self.lease_ms = max(1, int(self.options.lease_timeout * 1000))

    @property
    def has_one_owner(self) -> bool:
        """Whether a key can be stored at its owner only: the ring does not change, and has no gutter."""
        return self.ring_change is None and self.gutter is None

    def serving_node(self, key: bytes) -> int:
        """Return where a key is read and filled: at its owner, or in the gutter while that is ejected."""
        node = self.ring.owner(key)
        if self.gutter is None or not self.gutter.is_ejected(node):
            return node
        return self.gutter.owner(key)

    def by_serving_node(self, keys: Iterable[tuple[bytes, T]]) -> dict[int, list[T]]:
        """Group what comes with each key by the key's home."""
        if self.gutter is None:
            return self.ring.by_owner(keys)
        groups: dict[int, list[T]] = {}
        for key, item in keys:
            groups.setdefault(self.serving_node(key), []).append(item)
        return groups

    def ttl_at(self, node: int, life_ms: int) -> int:
        """Return how long a node keeps what should live so long; 0 or less has a meaning of its own."""
        if self.gutter is None or node not in self.gutter.nodes:
            return life_ms
        return self.gutter.life_ms if life_ms <= 0 else min(life_ms, self.gutter.life_ms)

    def owners(self, key: bytes) -> set[int]:
        """Return the nodes that may hold a key, but for the gutter's."""
        return {self.ring.owner(key)} | ({self.ring_change.owner(key)} if self.ring_change else set())

    def may_hold(self, node: int, key: bytes) -> bool:
        """Return whether a node may hold a key, be it the gutter's."""
        return node in self.owners(key) or (self.gutter is not None and node == self.gutter.owner(key))

    def for_strict(self) -> Context:
        """Return the same for strict keys, which are never in the gutter nor copied."""
        if self.gutter is None and self.near is None:
            return self
        if self._strict is None:
            self._strict = copy(self)
            self._strict.gutter = self._strict.near = None
        return self._strict

    def without_near(self) -> Context:
        """Return the same for reads that neither look at this process's copies nor keep any."""
        if self.near is None:
            return self
        fresh = copy(self)
        fresh.near = None
        return fresh

    def drop_near(self, keys: Iterable[bytes]) -> None:
        """Drop this process's copies of keys: before a write is sent, and when it was answered."""
        if self.near is not None:
            self.near.drop(keys)

    def record_missed(self, node: int, keys: Iterable[bytes], *, in_outbox: bool = False) -> None:
        """Note that a node holds, or may hold, what it should not: it is told before it is read again.

        Args:
            node: The node.
            keys: What it should delete.
            in_outbox: Whether an outbox has the keys already.
        """
        owed = MissedKeys(tuple(keys))
        self.counters.cell.deletes_missed += len(owed.keys)
        self._note(node, owed, in_outbox)

    def record_missed_clear(self, node: int) -> None:
        """Note that nothing that a node holds may be read any more."""
        self._note(node, ALL_KEYS, in_outbox=False)

    def _note(self, node: int, owed: MissedKeys, in_outbox: bool) -> None:
        new = self.missed.add(node, owed)
        if self.on_missed is not None:
            self.on_missed(node, MissedKeys() if in_outbox else new)

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
                self.log_limited("node_failed", "%s; taken for a miss", reply)
                return missing
        raise reply

    def undecodable(self, error: RecordError) -> None:
        """Count a record that cannot be read."""
        self.counters.cell.undecodable += 1
        self.log_limited("record_undecodable", "%s; taken for a miss", error)

    def fills_refused(self, count: int) -> None:
        """Count fills that came after their leases were revoked."""
        self.counters.cell.stale_sets_refused += count
        if count and (came := self._came("fills_refused", count)):
            text = "%d fills were refused, for their keys were invalidated while they were loaded"
            logger.info(text, came, extra={"event": "fills_refused", "count": came})

    def log_limited(self, event: str, text: str, error: Exception) -> None:
        """Log an event, and how many there were since it was last logged; at most once a minute."""
        if came := self._came(event):
            logger.warning(text, error, extra={"event": event, "count": came, "error": str(error)})

    def _came(self, event: str, count: int = 1) -> int:
        seldom = self._seldom.get(event) or self._seldom.setdefault(event, LogRateLimit(self.clock))
        return seldom.note(count)
