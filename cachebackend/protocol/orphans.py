"""Orphan leases: leases that this process has given up, but that a node may still hold.

A request for a lease may time out after the node has received it; so may the fill or the release of
a lease. The holder has gone on without it, and every other reader of the key would wait until the
lease expires. The process that gave it up remembers it, releases it when the node answers again
(see ``ring.replay``), and takes it over if it meets it before that.

A reader takes an orphan over like an unreadable record: it replaces it by a lease with a new token.
It must not use the old token again:

    1. reader A   asks for the lease with token T; the network holds the request up; A gives it up
    2. reader B   would ask with T again: granted; loads the old row
    3. writer     UPDATE, COMMIT, DEL -> T is gone
    4. node       receives the request of 1: the key holds T again
    5. reader B   would fill the old row, by comparing with T
"""

from __future__ import annotations

import threading

__all__ = ["Orphans"]

#: The most leases that are remembered. One that is forgotten expires on its node.
_MOST = 1000


class Orphans:
    """The orphan leases of one alias in one process.

    Its threads and tasks share them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: For each lease's record: the index of its node, and its key.
        self._leases: dict[bytes, tuple[int, bytes]] = {}

    def __contains__(self, record: bytes) -> bool:
        """Return whether a record is a lease that this process has given up."""
        return record in self._leases

    def add(self, node: int, key: bytes, record: bytes) -> None:
        """Remember a lease that a node may hold; forget the oldest one if there are too many."""
        with self._lock:
            self._leases[record] = node, key
            if len(self._leases) > _MOST:
                del self._leases[next(iter(self._leases))]

    def discard(self, record: bytes) -> None:
        """Forget a lease: its node does not hold it any more."""
        if record in self._leases:
            with self._lock:  # another thread may iterate over them
                self._leases.pop(record, None)

    def of(self, node: int) -> list[tuple[bytes, bytes]]:
        """Return key and record of each lease that a node may hold."""
        with self._lock:
            return [(key, record) for record, (owner, key) in self._leases.items() if owner == node]

    def after_fork(self) -> None:
        """Create a new lock in a forked child: another thread of the parent may have held the old one."""
        self._lock = threading.Lock()
