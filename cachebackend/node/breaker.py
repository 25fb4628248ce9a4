"""A node that fails is left alone, so that it costs nothing, and is asked again now and then.

States: ``up``; ``ejected``: no command is sent; ``replaying``: it answers again, and is
told what it missed before anybody reads it. One probe at a time, the longer apart the more
of them failed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from cachebackend.clock import Clock

__all__ = ["EJECTED", "REPLAYING", "UP", "Breaker", "NodeState"]

logger = logging.getLogger("cachebackend")
UP, EJECTED, REPLAYING = "up", "ejected", "replaying"
#: So many failures in a row open the breaker.
FAILURES = 3
#: Seconds until the first probe, and at most between two.
FIRST_SECONDS, MOST_SECONDS = 1.0, 60.0
#: By how much of itself a wait is shortened at random, so that processes do not probe together.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a process knows of a node.

    Attributes:
        name: The node's.
        state: ``up``, ``ejected`` or ``replaying``.
        since: When that began, in seconds since 1970; None: with the process.
        error: What ejected it; empty if it is up.
        ejections: How often it was ejected.
    """

    name: str
    state: str
    since: float | None
    error: str
    ejections: int


class Breaker:
    """The breaker of one node in one process; its threads and tasks share it.

    Args:
        name: The node's name.
        clock: Where time and chance come from.
        most_seconds: The longest wait between two probes.

    Attributes:
        is_open: Whether commands are to be kept from the node. Read on every command.
    """

    def __init__(self, name: str, clock: Clock, most_seconds: float = MOST_SECONDS) -> None:
        self.name = name
        self._most_seconds = most_seconds
        self.is_open = False
        self.has_failures = False
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._state, self._error, self._ejections = UP, "", 0
        self._since: float | None = None
        self._wait = FIRST_SECONDS
        self._probe_at = 0.0
        self._is_probing = False

    @property
    def state(self) -> NodeState:
        """What is known now."""
        with self._lock:
            return NodeState(self.name, self._state, self._since, self._error, self._ejections)

    def failed(self, error: Exception, *, at_once: bool = False) -> None:
        """Note that a command was not answered; ``at_once``: that is reason enough."""
        with self._lock:
            self._failures += 1
            self.has_failures = True
            opens = not self.is_open and (at_once or self._failures >= FAILURES)
            if opens:
                self._open(error)
        if opens:
            self._tell_ejected(error)

    def succeeded(self) -> None:
        """Note that a command was answered."""
        with self._lock:
            if not self.is_open:
                self._failures = 0
                self.has_failures = False

    def begin_probe(self, *, early: bool = False) -> bool:
        """Return whether the caller is to probe the node now; nobody else is told so until it ends.

        Args:
            early: Not to wait for the next probe's time, if the node is not known to be down.
        """
        with self._lock:
            is_due = self._clock.monotonic() >= self._probe_at if self.is_open else early
            if self._is_probing or not is_due:
                return False
            self._is_probing = True
            return True

    def replaying(self) -> None:
        """Note that the node answers and is being told what it missed."""
        with self._lock:
            if self.is_open:
                self._state = REPLAYING

    def probe_failed(self, error: Exception) -> None:
        """Note that the node is not back."""
        with self._lock:
            was_open = self.is_open
            if was_open:
                self._state = EJECTED
                self._error = str(error)
                self._wait = min(2 * self._wait, self._most_seconds)
                self._set_probe()
            else:
                self._open(error)
            self._is_probing = False
        if not was_open:
            self._tell_ejected(error)

    def close(self, is_complete: Callable[[], bool] = lambda: True) -> bool:
        """Note that the node is back, if it has been told everything; return whether it has.

        Args:
            is_complete: Looked at in one step with the closing: who notes that the node missed
                something, and then asks for a probe, has it seen here or begins the next probe.
        """
        with self._lock:
            if not is_complete():
                return False
            was_open = self.is_open
            self._failures, self.has_failures, self.is_open = 0, False, False
            self._wait = FIRST_SECONDS
            self._is_probing = False
            if was_open:
                self._state, self._error, self._since = UP, "", self._clock.now()
        if was_open:
            logger.warning("node %r is back", self.name, extra={"event": "node_returned", "node": self.name})
        return True

    def after_fork(self) -> None:
        """Let go of the parent's probe, in a forked child."""
        self._lock = threading.Lock()
        self._is_probing = False

    def _tell_ejected(self, error: Exception) -> None:
        extra = {"event": "node_ejected", "node": self.name, "error": str(error)}
        logger.warning("node %r is ejected: %s", self.name, error, extra=extra)

    def _open(self, error: Exception) -> None:
        self.is_open = True
        self._state, self._since, self._error = EJECTED, self._clock.now(), str(error)
        self._ejections += 1
        self._wait = FIRST_SECONDS
        self._set_probe()

    def _set_probe(self) -> None:
        self._probe_at = self._clock.monotonic() + self._wait * (1 - JITTER * self._clock.random())
