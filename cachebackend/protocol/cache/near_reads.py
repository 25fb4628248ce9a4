"""Reads that look among the process's own copies first, and keep copies of what they find.

What is asked of the nodes is announced to the near cache before it is sent, with what remains
of each key's time asked for along with it; ``near.cache`` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from cachebackend.effects import Command, Reply
from cachebackend.near.cache import MISS, Read
from cachebackend.protocol.context import Context

__all__ = ["Copies"]

#: What PTTL says of a key that is gone, and of one that does not expire.
_GONE, _FOR_EVER = -2, -1
K = TypeVar("K")


class Copies(Generic[K]):
    """The copies that there are of some keys, and the reads of the others, to be ended whatever comes.

    Args:
        context: The alias; without a near cache there are no copies and none are kept.
        keys: The caller's name for each key, and the key.

    Attributes:
        found: The values of those that there are copies of, counted as hits.
        left: The keys of the others.
    """

    def __init__(self, context: Context, keys: Mapping[K, bytes]) -> None:
        self._context, self._near = context, context.near
        self.found: dict[K, Any] = {}
        self.left: Mapping[K, bytes] = keys
        self._reads: dict[K, Read] = {}
        self._ttls: dict[K, Reply] = {}
        if self._near is not None:
            decode = context.codec.decode
            copies = {name: self._near.get(key, decode) for name, key in keys.items()}
            self.found = {name: copy for name, copy in copies.items() if copy is not MISS}
            self.left = {name: key for name, key in keys.items() if name not in self.found}
            cell = context.counters.cell
            cell.hits += len(self.found)
            cell.near_hits += len(self.found)

    def begin(self) -> list[tuple[int, Command]]:
        """Announce the reads of the keys that are left; return what is to be sent after them."""
        if self._near is None:
            return []
        homes = {name: self._context.serving_node(key) for name, key in self.left.items()}
        self._reads = {name: self._near.begin(key, homes[name]) for name, key in self.left.items()}
        return [(homes[name], (b"PTTL", key)) for name, key in self.left.items()]

    def answered(self, replies: Sequence[Reply]) -> None:
        """Take the replies to what ``begin`` returned."""
        self._ttls = dict(zip(self._reads, replies, strict=True))

    def keep(self, name: K, record: bytes, value: Any, fresh_seconds: float) -> None:
        """Keep a copy of a value that was read.

        Args:
            name: The caller's name of the key.
            record: What stands there.
            value: The value that it holds.
            fresh_seconds: Seconds that it is good to every reader; 0: it is not.
        """
        ttl_ms = self._ttls.get(name)
        if self._near is not None and isinstance(ttl_ms, int) and ttl_ms != _GONE:
            ttl = math.inf if ttl_ms == _FOR_EVER else ttl_ms / 1000
            self._near.keep(self._reads[name], record, value, min(ttl, fresh_seconds))

    def end(self) -> None:
        """End the reads: a placeholder that is left takes another's room."""
        if self._near is not None:
            for read in self._reads.values():
                self._near.forget(read)
