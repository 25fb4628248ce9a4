"""Tries again the deletes that no server of a cluster could confirm, until one does.

The node whose replay has postponed them serves all other keys, so nothing else may start its replay again:

    1. process  deletes a key; no server has its slot, so the delete is postponed
    2. cluster  gives the slot back to the server that had it, which still has the key
    3. process  reads the old value there; the table of slots is as before, and no command fails

A slot may have no server for hours. Meanwhile only the topology is read: the deletes of its keys could not be
confirmed, and sending thousands of them each second would load the servers that work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol
from weakref import ref

from cachebackend.threads import start_if_possible

__all__ = ["PostponedDeletes"]

#: Seconds between two attempts.
RETRY_SECONDS = 1.0


class ReplayedNode(Protocol):
    """The part of a node that this needs."""

    def request_replay(self) -> None:
        """Replay missed deletes to the node, in another thread."""
        ...


class PostponedDeletes:
    """The postponed deletes of a client, which are tried again as long as there are some.

    Args:
        has_some: Returns whether there are some.
        holders: Reads the topology if slots have no server; returns the nodes that have the keys of the
            other slots now.
    """

    def __init__(self, has_some: Callable[[], bool], holders: Callable[[], Iterable[ReplayedNode]]) -> None:
        self._has_some, self._holders = has_some, holders
        self._pause: Callable[[float], object] = threading.Event().wait
        #: The thread that waits before the next attempt; None: there is none that continues.
        self._thread: threading.Thread | None = None

    def retry_soon(self) -> None:
        """Try them again after a pause, unless that is planned already."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            # A weak reference: a client that nobody uses any more has nothing to delete
            retry = partial(_retry, ref(self), self._pause)
            self._thread = thread = threading.Thread(target=retry, name="ringcache-postponed", daemon=True)
            start_if_possible(thread)

    def retry(self) -> bool:
        """Replay them to the nodes that have the keys now; return whether the thread must try again.

        If one is postponed after this has looked for some, another thread is started, and continues instead.
        """
        self._thread = None
        if not self._has_some():
            return False
        for node in self._holders():
            node.request_replay()
        if self._thread is not None:
            return False
        self._thread = threading.current_thread()
        return True

    def after_fork(self) -> None:
        """Try those of the parent again in a forked child, which does not have the parent's thread."""
        self._thread = None
        if self._has_some():
            self.retry_soon()


def _retry(deletes: ref[PostponedDeletes], pause: Callable[[float], object]) -> None:
    is_left = True
    while is_left:
        pause(RETRY_SECONDS)
        present = deletes()
        is_left = present is not None and present.retry()
        del present
