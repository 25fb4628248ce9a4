"""The tracking connections of a client's nodes, which invalidate the copies of its near cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from cachebackend.interrupts import raise_interrupt
from cachebackend.near.cache import NearCache
from cachebackend.node import Node, Tracking
from cachebackend.threads import is_thread_refused

__all__ = ["Trackings"]


class Trackings:
    """The tracking connections of a client's nodes.

    A copy depends on the connection of the node that it was read from. In a cluster a key may have been read
    from another node than the one that was asked, so each copy depends on the connections of all nodes.

    Args:
        near: The near cache.
        nodes: The nodes; a cluster may add some.
        indexes: Returns the indexes of the nodes that may hold keys.
        is_cluster: Whether some nodes are a cluster's.
    """

    def __init__(
        self,
        near: NearCache,
        nodes: Sequence[Node],
        indexes: Callable[[], Iterable[int]],
        *,
        is_cluster: bool,
    ) -> None:
        self._near, self._nodes, self._indexes = near, nodes, indexes
        self._is_cluster = near.has_one_source = is_cluster
        self._lock = threading.Lock()
        self._trackings: list[Tracking] = []
        self._is_started = False
        #: The nodes of a cluster whose connections are open.
        self._open: set[int] = set()
        self._open_lock = threading.Lock()

    def start(self) -> None:
        """Start tracking on the nodes, with the first read that may store a copy."""
        if self._is_started:
            return
        with self._lock:
            # A signal handler may raise anywhere here, so the next read continues
            for index in range(len(self._trackings), len(self._nodes)):
                self._trackings.append(self._tracking(index))
            for tracking in self._trackings:
                try:
                    tracking.start()
                except RuntimeError as error:
                    raise_interrupt(error)
                    if not is_thread_refused(error):
                        raise
                    return  # the next read tries again; until then no copies of this node are stored
            self._is_started = True

    def node_moved(self, index: int) -> None:
        """Track the new primary of a node, which the cluster may have added, with the next read."""
        with self._lock:
            if index < len(self._trackings):
                self._trackings[index].close()
            self._is_started = False

    def _tracking(self, index: int) -> Tracking:
        near = self._near
        opened = self._opened if self._is_cluster else near.tracking_opened
        lost = self._lost if self._is_cluster else near.tracking_lost
        return Tracking(
            self._nodes[index].handshake,
            lambda keys: near.drop_all() if keys is None else near.drop(keys),
            partial(opened, index),
            partial(lost, index),
        )

    def _opened(self, index: int) -> None:
        with self._open_lock:
            self._open.add(index)
        self.update()

    def _lost(self, index: int) -> None:
        with self._open_lock:
            self._open.discard(index)
        self.update()

    def update(self) -> None:
        """Use copies if the connections of all nodes that own slots are open."""
        with self._open_lock:
            if self._open.issuperset(self._indexes()):
                self._near.tracking_opened(0)
            else:
                self._near.tracking_lost(0)

    def close(self) -> None:
        """End the tracking; it can be started again."""
        with self._lock:
            self._is_started = False
            for tracking in self._trackings:
                tracking.close()
            self._trackings = []

    def after_fork(self) -> None:
        """Start again without the parent's threads and locks, in a forked child."""
        self._lock, self._open_lock = threading.Lock(), threading.Lock()
        self._trackings, self._is_started = [], False
        self._open = set()
