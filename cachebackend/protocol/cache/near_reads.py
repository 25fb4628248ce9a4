"""Reads that look for a copy in this process first, and store copies of what they read.

A read of a node is announced to the near cache before it is sent, and the key's remaining time
to live is read along with the value; ``near.cache`` explains why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from cachebackend.effects import Reply, Request
from cachebackend.near.cache import MISS, Read
from cachebackend.protocol.cache.freshness import fresh_seconds
from cachebackend.protocol.context import Context

__all__ = ["NearReads"]

#: What PTTL returns for a key that does not exist, and for one that does not expire.
_NO_KEY, _NO_EXPIRY = -2, -1
K = TypeVar("K")


class NearReads(Generic[K]):
    """The copies of some keys, and the reads of the other keys; ``end`` must be called in any case.

    Args:
        context: The alias; without a near cache every key is a miss, and nothing is stored.
        keys: The caller's name for each key, and the key.
        is_used: Whether copies may be used and stored. A reader that asks for tags uses none: a copy
            does not say which tags its value has.

    Attributes:
        hits: The values of the keys that have a copy, counted as hits.
        misses: The other keys.
    """

    def __init__(self, context: Context, keys: Mapping[K, bytes], *, is_used: bool = True) -> None:
        self._context, self._near = context, context.near if is_used else None
        self.hits: dict[K, Any] = {}
        self.misses: Mapping[K, bytes] = keys
        self._reads: dict[K, Read] = {}
        self._ttls: dict[K, Reply] = {}
        if self._near is not None:
            decode = context.codec.decode
            copies = {name: self._near.get(key, decode) for name, key in keys.items()}
            self.hits = {name: copy for name, copy in copies.items() if copy is not MISS}
            self.misses = {name: key for name, key in keys.items() if name not in self.hits}
            cell = context.counters.cell
            cell.hits += len(self.hits)
            cell.near_hits += len(self.hits)

    def begin(self) -> list[Request]:
        """Announce the reads of the misses; return the requests to send after the reads."""
        if self._near is None:
            return []
        nodes = {name: self._context.serving_node(key) for name, key in self.misses.items()}
        for name, key in self.misses.items():  # one by one: if this loop is interrupted, ``end`` knows them
            self._reads[name] = self._near.begin(key, nodes[name])
        return [(nodes[name], (b"PTTL", key)) for name, key in self.misses.items()]

    def settle(self, replies: Sequence[Reply]) -> None:
        """Take the replies to the requests that ``begin`` returned."""
        self._ttls = dict(zip(self._reads, replies, strict=True))

    def keep(self, name: K, record: bytes, value: Any) -> None:
        """Store a copy of a value that was read, for as long as every reader may be served it.

        Args:
            name: The caller's name of the key.
            record: The record that the key holds.
            value: The value in it.
        """
        if self._near is None:
            return
        ttl_ms = self._ttls.get(name)
        if isinstance(ttl_ms, int) and ttl_ms != _NO_KEY:
            ttl = math.inf if ttl_ms == _NO_EXPIRY else ttl_ms / 1000
            self._near.keep(self._reads[name], record, value, min(ttl, fresh_seconds(self._context, record)))

    def end(self) -> None:
        """Remove unused placeholders; each one uses space that another read needs."""
        if self._near is not None:
            for read in self._reads.values():
                self._near.forget(read)
