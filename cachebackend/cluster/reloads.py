"""When the topology of a cluster is read: at the first command, and again when it may have changed.

Then it is read in the background: after a redirection, a failure, or a reply that a slot is not served. One
thread reads it at a time; the others wait for that thread, or do not need it.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable
from weakref import WeakSet

from cachebackend.clock import Clock
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.translate import CONNECTION_ERRORS
from cachebackend.threads import start_if_possible

__all__ = ["Reloads"]

logger = logging.getLogger("cachebackend")
#: Seconds after an attempt to read the topology in which the first one, or one after an unserved slot, is
#: not tried again.
RETRY_SECONDS = 1.0
#: Seconds after an attempt in which no other one begins in the background. Servers that disagree about a slot
#: redirect each command, and each redirection asks for the topology.
PAUSE_SECONDS = 0.1


class Reloads(ABC):
    """Reads the topology of a cluster; ``_reload`` of a subclass does so once.

    Args:
        clock: The source of time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._pause = clock, threading.Event().wait
        #: The epoch of the topology; None: it was not read yet.
        self._epoch: int | None = None
        #: Held while the topology is read.
        self._lock = threading.Lock()
        self._attempts = 0
        self._retry_at = 0.0
        self._failure = ""
        #: When the topology was last read to find each of some servers, in seconds.
        self._sought: dict[Hashable, float] = {}
        #: The thread that reads the topology in the background, or has done so.
        self._reloader: threading.Thread | None = None
        _ALL.add(self)

    @abstractmethod
    def _reload(self) -> None:
        """Read the topology, and use it; a ConnectionError says that no server answers."""

    def load(self) -> None:
        """Read the topology if it was not read yet.

        Raises:
            OSError: No server answers, or none has answered a moment ago.
        """
        if self.is_loaded:
            return
        if self._failure and self._clock.monotonic() < self._retry_at:
            raise ConnectionError(self._failure)
        self.reload()

    def try_load(self) -> None:
        """Read the topology if ``is_due``; if no server answers, log that."""
        if self.is_due:
            self.try_reload()

    @property
    def is_due(self) -> bool:
        """Whether the topology was not read yet, and no attempt has just failed or is repeated now."""
        if self.is_loaded or self._clock.monotonic() < self._retry_at:
            return False
        return not (self._failure and self._lock.locked())

    @property
    def is_loaded(self) -> bool:
        """Whether the topology was read."""
        return self._epoch is not None

    def reload(self) -> None:
        """Read the topology; if another thread is reading it, wait for that thread.

        Raises:
            OSError: No server answers.
        """
        seen = self._attempts
        with self._lock:
            if self._attempts == seen:
                try:
                    self._reload()
                    self._failure = ""
                except ConnectionError as error:
                    raise_interrupt(error)
                    self._failure = str(error)
                finally:
                    self._attempts += 1
                    self._retry_at = self._clock.monotonic() + RETRY_SECONDS
            if self._failure:
                raise ConnectionError(self._failure)

    def reload_soon(self) -> None:
        """Read the topology in another thread, unless one does so already."""
        reloader = self._reloader
        if reloader is None or not reloader.is_alive():
            # A local name: another thread may do the same at the same time, and a thread starts only once
            reloader = threading.Thread(target=self._reload_later, name="ringcache-cluster", daemon=True)
            self._reloader = reloader
            start_if_possible(reloader)

    def _reload_later(self) -> None:
        """Read the topology as it is then, so what was noticed during the pause needs no other attempt."""
        pause = self._retry_at - RETRY_SECONDS + PAUSE_SECONDS - self._clock.monotonic()
        if self.is_loaded and pause > 0:
            self._pause(min(pause, PAUSE_SECONDS))
        self.try_reload()

    def try_reload(self) -> None:
        """Read the topology; if no server answers, log that."""
        try:
            self.reload()
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            logger.warning("the topology of the cluster cannot be read: %s", error)

    def look_for(self, servers: Collection[Hashable]) -> None:
        """Read the topology to find servers that it lacks; in the background if that was just done.

            1. cluster  one server gives its slot to a server that hangs; the others do not hear of that
            2. command  is redirected to the server that hangs: no topology has it
            3. command  the next one is redirected, too: the topology is not read again before each command

        Args:
            servers: A name for each of them, the same one each time.
        """
        oldest = self._clock.monotonic() - PAUSE_SECONDS
        if all(self._sought.get(each, oldest) > oldest for each in servers):
            self.reload_soon()
            return
        self.try_reload()
        recent = {each: at for each, at in self._sought.items() if at > oldest}
        self._sought = recent | dict.fromkeys(servers, self._clock.monotonic())

    def note_unserved(self) -> None:
        """Read the topology in another thread, unless that was done in the last second."""
        if self._clock.monotonic() >= self._retry_at:
            self.reload_soon()

    def after_fork(self) -> None:
        """Use a new lock in a forked child: another thread of the parent may have held the old one."""
        self._lock = threading.Lock()
        self._reloader = None


_ALL: WeakSet[Reloads] = WeakSet()


def _after_fork() -> None:
    for each in _ALL:
        each.after_fork()


os.register_at_fork(after_in_child=_after_fork)
