"""What nodes that did not answer were not told: keys that must not be read there when they are back.

It is noted in this process, which tells the node before it reads it again, and handed to an outbox,
where a crash does not lose it and every process sees it. A key that was handed over a moment
ago is not handed over again; later it must be, though it stands here yet:

    1. process A  has ejected the node, and deletes the key: an outbox row
    2. relay      has not: deletes the key there, and drops the row
    3. process B  fills the key
    4. process A  deletes the key again

No relay settles a row that is younger than ``SETTLING_SECONDS``; so if 4 comes within half of that
after 1, 2 comes after 4, and one row is enough for both.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cachebackend.clock import Clock

__all__ = ["ALL_KEYS", "SETTLING_SECONDS", "MissedDeletes", "MissedKeys", "Outbox"]

#: A younger outbox row is most likely being settled by who wrote it.
SETTLING_SECONDS = 1.0
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class MissedKeys:
    """What a node is to delete.

    Attributes:
        keys: These keys.
        is_all_keys: Every key of the aliases that share the client.
    """

    keys: tuple[bytes, ...] = ()
    is_all_keys: bool = False

    def __bool__(self) -> bool:
        return self.is_all_keys or bool(self.keys)


ALL_KEYS = MissedKeys(is_all_keys=True)


class Outbox(Protocol):
    """Where what nodes are owed outlives the process that owes it, and all processes see it."""

    def keep(self, node: str, owed: MissedKeys) -> bool:
        """Keep what a node, by its place, is owed; return whether that is certain. Raises nothing."""
        ...

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        """Return what any process owes a node; everything, if that is more than ``limit`` keys."""
        ...


class MissedDeletes:
    """The deletes that nodes missed, for one alias in one process.

    Args:
        limit: The most keys kept for a node. One that missed more is cleared of all its keys.
        clock: Where time is taken from.
    """

    def __init__(self, limit: float, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        #: What each node missed (None: everything), and when it was last known to be in an outbox.
        self._noted: dict[int, dict[bytes | None, float]] = {}

    def add(self, node: int, owed: MissedKeys) -> MissedKeys:
        """Note what a node is to delete; return what of it an outbox is to be given."""
        with self._lock:
            noted = self._noted.setdefault(node, {})
            names: Sequence[bytes | None] = owed.keys
            for name in names:
                noted.setdefault(name, _NEVER)
            if owed.is_all_keys or None in noted or len(noted) > self.limit:
                noted = self._noted[node] = {None: noted.get(None, _NEVER)}
                names = [None]
            young = self._clock.monotonic() - SETTLING_SECONDS / 2
            return _owed(name for name in names if noted[name] < young)

    def kept(self, node: int, owed: MissedKeys, since: float) -> None:
        """Note that an outbox has what a node is owed, since a (monotonic) time in seconds."""
        with self._lock:
            noted = self._noted.get(node, {})
            for name in [None] if owed.is_all_keys else owed.keys:
                if name in noted:
                    noted[name] = since

    def take(self, node: int) -> MissedKeys:
        """Return what a node is to delete, and forget it."""
        with self._lock:
            return _owed(self._noted.pop(node, ()))

    def count(self, node: int) -> int | None:
        """Return how many deletes a node missed; None: all keys of it are wrong."""
        with self._lock:
            noted = self._noted.get(node, {})
            return None if None in noted else len(noted)

    def has_missed(self, node: int, key: bytes) -> bool:
        """Return whether a node missed the delete of a key."""
        with self._lock:
            noted = self._noted.get(node, {})
            return key in noted or None in noted

    def after_fork(self) -> None:
        """Take a new lock, in a forked child: another thread may have held the old one."""
        self._lock = threading.Lock()


def _owed(names: Iterable[bytes | None]) -> MissedKeys:
    keys = list(names)
    return ALL_KEYS if None in keys else MissedKeys(tuple(key for key in keys if key is not None))
