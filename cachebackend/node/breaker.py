"""The breaker of a node: it keeps commands from a node that fails, and lets a probe through at intervals.

States: ``up``; ``ejected``: no command is sent to the node; ``replaying``: the node answers again, and
the deletes that it missed are replayed to it before it serves reads. One probe runs at a time. The
interval between probes doubles with each one that fails.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from cachebackend.clock import Clock

__all__ = ["EJECTED", "REPLAYING", "UP", "Breaker", "NodeState"]

logger = logging.getLogger("cachebackend")
UP, EJECTED, REPLAYING = "up", "ejected", "replaying"
#: This many failures in a row open the breaker.
FAILURES = 3
#: Seconds until the first probe, unless probes are more frequent.
FIRST_WAIT = 1.0
#: The most seconds between two probes, and so until a process uses a node again that is back.
MAX_WAIT = 10.0
#: Seconds after which a claim counts as lost if its probe has not begun: the caller was interrupted by an
#: exception of a signal handler, for example, before it could start the probe's thread.
CLAIM_SECONDS = 5.0
#: The largest share by which a wait is shortened at random, so that processes do not probe together.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state of a node, as one process sees it.

    Attributes:
        name: The name of the node.
        state: ``up``, ``ejected`` or ``replaying``.
        since: When the state began, in seconds since 1970; None: when the process started.
        error: The error that ejected the node; empty if it is up.
        ejections: How often the node was ejected.
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
        clock: The source of time and randomness.
        max_wait: The most seconds between two probes.
        opens_on_timeout: Whether one timeout ejects the node, so that only the callers that wait at
            that time pay for it. The caches of a ring wait for a node less long, and lose its keys.

    Attributes:
        is_open: Whether the node gets no commands. Read on every command.
        has_failures: Whether a command has failed since the last one that was answered. Read on every
            command.
    """

    def __init__(
        self, name: str, clock: Clock, max_wait: float = MAX_WAIT, *, opens_on_timeout: bool = False
    ) -> None:
        self.name = name
        self.opens_on_timeout = opens_on_timeout
        self._max_wait = max_wait
        self.is_open = False
        self.has_failures = False
        self._clock = clock
        self._make_lock()
        self._failures = 0
        self._state, self._error, self._ejections = UP, "", 0
        self._since: float | None = None
        self._first_wait = min(FIRST_WAIT, max_wait)
        self._wait = self._first_wait
        self._probe_at = 0.0
        self._is_probing = False
        self._claim_lost_at = math.inf
        #: Why ``hold`` has ejected the node, until that is logged.
        self._unlogged: Exception | None = None

    @property
    def state(self) -> NodeState:
        """The present state."""
        with self._lock:
            return NodeState(self.name, self._state, self._since, self._error, self._ejections)

    @property
    def seconds_to_probe(self) -> float | None:
        """In how many seconds the next probe is due; None while commands are sent to the node."""
        with self._lock:
            return max(self._probe_at - self._clock.monotonic(), 0.0) if self.is_open else None

    def failed(self, error: Exception, *, at_once: bool = False) -> None:
        """Count a command that failed; ``at_once``: this one failure ejects the node."""
        with self._lock:
            self._failures += 1
            self.has_failures = True
            opens = not self.is_open and (at_once or self._failures >= FAILURES)
            if opens:
                self._open(error)
        if opens:
            self._log_ejected(error)

    def hold(self, error: Exception) -> bool:
        """Eject the node until the deletes that it missed were replayed, although it answers.

        The probe logs that, because the caller has locked the table of its cluster:

            1. process  holds the lock, and logs a message
            2. handler  of the message uses the cache: a filter that limits mails by ``cache.add``
            3. command  is redirected, and waits for the lock

        Returns:
            Whether the caller must start a probe now, as after ``begin_probe``.
        """
        with self._lock:
            if not self.is_open:
                self._open(error)
                self._unlogged = error
            self._probe_at = self._clock.monotonic()
        return self.begin_probe()

    def succeeded(self) -> None:
        """Count a command that the node answered: the failures before it no longer count."""
        with self._lock:
            if not self.is_open:
                self._failures = 0
                self.has_failures = False

    def _make_lock(self) -> None:
        self._lock = threading.Lock()
        self._probe_ended = threading.Condition(self._lock)

    def begin_probe(self, *, early: bool = False, at_once: bool = False) -> bool:
        """Claim the next probe. Only one caller holds it at a time.

        Args:
            early: Probe now, if the node is up.
            at_once: Probe now, in any state of the node.

        Returns:
            Whether the caller must start a probe within ``CLAIM_SECONDS``. The probe calls ``probe_begun``,
            and then ``close`` or ``probe_failed``.
        """
        with self._lock:
            now = self._clock.monotonic()
            is_due = at_once or (now >= self._probe_at if self.is_open else early)
            if not is_due or (self._is_probing and now < self._claim_lost_at):
                return False
            self._is_probing, self._claim_lost_at = True, now + CLAIM_SECONDS
            return True

    def probe_begun(self) -> None:
        """Keep the claim until the probe ends, however long that takes."""
        with self._lock:
            self._claim_lost_at = math.inf
        self._log_held()

    def begin_replay(self) -> None:
        """Handle a node that answers again: the deletes that it missed are replayed to it now."""
        with self._lock:
            if self.is_open:
                self._state = REPLAYING

    def probe_failed(self, error: Exception) -> None:
        """Release the probe: the node does not answer, or the replay failed."""
        with self._lock:
            was_open = self.is_open
            if was_open:
                self._state = EJECTED
                self._error = str(error)
                self._wait = min(2 * self._wait, self._max_wait)
                self._set_probe()
            else:
                self._open(error)
            self._end_probe()
        if not was_open:
            self._log_ejected(error)

    def close(self, is_complete: Callable[[], bool] = lambda: True) -> bool:
        """Release the probe and send commands to the node again, if the replay is complete.

        Args:
            is_complete: Returns whether no missed delete is left to replay. It is called in one step
                with the closing, under the lock. So a thread that adds a missed delete and then claims
                a probe either has added it before this call, which then returns False, or it gets the
                next probe.

        Returns:
            Whether the replay is complete.
        """
        with self._lock:
            if not is_complete():
                return False
            was_open = self.is_open
            self._failures, self.has_failures, self.is_open = 0, False, False
            self._wait = self._first_wait
            self._end_probe()
            if was_open:
                self._state, self._error, self._since = UP, "", self._clock.now()
        self._log_held()
        if was_open:
            logger.warning("node %r is back", self.name, extra={"event": "node_returned", "node": self.name})
        return True

    def wait_for_probe(self, seconds: float) -> bool:
        """Wait until no probe runs, for at most some seconds; return whether the node gets commands."""
        with self._probe_ended:
            self._probe_ended.wait_for(lambda: not self._is_probing, seconds)
            return not self.is_open

    def _end_probe(self) -> None:
        self._is_probing = False
        self._probe_ended.notify_all()

    def after_fork(self) -> None:
        """Forget the parent's probe, in a forked child: the child does not have the thread that runs it."""
        self._make_lock()
        self._is_probing = False

    def _log_held(self) -> None:
        """Log that the node was ejected, if ``hold`` has done so and nothing was logged yet."""
        with self._lock:
            error, self._unlogged = self._unlogged, None
        if error is not None:
            self._log_ejected(error)

    def _log_ejected(self, error: Exception) -> None:
        extra = {"event": "node_ejected", "node": self.name, "error": str(error)}
        logger.warning("node %r is ejected: %s", self.name, error, extra=extra)

    def _open(self, error: Exception) -> None:
        self.is_open = True
        self._state, self._since, self._error = EJECTED, self._clock.now(), str(error)
        self._ejections += 1
        self._wait = self._first_wait
        self._set_probe()

    def _set_probe(self) -> None:
        self._probe_at = self._clock.monotonic() + self._wait * (1 - JITTER * self._clock.random())
