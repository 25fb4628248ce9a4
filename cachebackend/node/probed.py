"""What happens to a node that fails: it is ejected, probed, and serves again after a replay.

The probe runs in a thread of its own. The deletes that the node missed are replayed before it serves reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.blocking import BlockingPool, Connection
from cachebackend.node.breaker import Breaker
from cachebackend.node.translate import CONNECTION_ERRORS, unavailable
from cachebackend.options import NodeAddress
from cachebackend.threads import start_thread

__all__ = ["Exchange", "ProbedNode", "Replay"]

#: Sends commands and returns their replies; raises if one of them is an error.
Exchange: TypeAlias = Callable[[Sequence[Command]], list[Reply]]


class Replay(Protocol):
    """Replays the deletes that a node missed, after a probe was answered and before it serves reads."""

    def replay_all(self, exchange: Exchange) -> None:
        """Replay the deletes that any process has missed; raises the error that prevents it."""
        ...

    def replay_own(self, exchange: Exchange) -> None:
        """Replay the deletes that this process has missed; raises the error that prevents it."""
        ...

    def replay_rest(self, exchange: Exchange) -> None:
        """Replay the deletes that this process missed since then; raises the error that prevents it."""
        ...

    def is_complete(self) -> bool:
        """Return whether this process has no missed delete and no orphan lease of the node now."""
        ...

    def has_orphans(self) -> bool:
        """Return whether the node may hold leases that this process has given up."""
        ...


class ProbedNode:
    """The part of a node that ejects it when it fails, and lets it serve again.

    Args:
        address: The node's name and URL.
        pool: Its blocking connections.
        socket_timeout: The most seconds that a reply may take.
    """

    def __init__(self, address: NodeAddress, pool: BlockingPool, socket_timeout: float) -> None:
        self.address = address
        self.name = address.name
        #: Identifies the node among processes, which may have different names for it.
        self.endpoint = address.endpoint
        #: Ejects the node when it fails; None: the node is never ejected.
        self.breaker: Breaker | None = None
        #: Replays missed deletes when the node is back; None: there is nothing to replay.
        self.replay: Replay | None = None
        self._pool = pool
        self._timeout = socket_timeout

    def fail(self, reason: str) -> NodeUnavailableError:
        """Record that the node's replies, each valid, kept an operation in a loop; return our error.

        The node has answered many commands meanwhile, so this one failure ejects it.
        """
        failure = NodeUnavailableError(f"node {self.name!r} {reason}")
        failure.was_sent = True
        if self.breaker is not None:
            self.breaker.failed(failure, at_once=True)
        return failure

    @property
    def is_ejected(self) -> bool:
        """True if the node gets no commands now. Starts its probe if that is due."""
        if self.breaker is None or not self.breaker.is_open:
            return False
        self._ejected_error()
        return True

    def _record_reply(self, reply: Reply) -> None:
        """Record a reply in the breaker; one that says that the node cannot serve is a failure."""
        assert self.breaker is not None  # noqa: S101  # the caller has checked it
        if not isinstance(reply, NodeUnavailableError):
            self.breaker.succeeded()
            self.release_orphans()
        elif reply.ejects:
            self.breaker.failed(reply)

    def _ejected_error(self) -> NodeUnavailableError:
        """Return the reply to a command for an ejected node; start the node's probe if that is due."""
        assert self.breaker is not None  # noqa: S101  # the caller has checked it
        if self.breaker.begin_probe():
            self._start_probe()
        return NodeUnavailableError(f"node {self.name!r} is ejected: {self.breaker.state.error}")

    def request_replay(self) -> None:
        """Start a probe in another thread, unless one runs: it replays missed deletes to the node.

        If the node is ejected, its next probe does so.
        """
        if self.breaker is not None and self.breaker.begin_probe(early=True):
            self._start_probe()

    def probe_early(self) -> None:
        """Start the probe of an ejected node although it is not due, unless one runs; wait for nothing."""
        breaker = self.breaker
        if breaker is not None and breaker.is_open and breaker.begin_probe(at_once=True):
            self._start_probe()

    def probe_now(self) -> bool:
        """Probe an ejected node although that is not due, and wait for the result; return whether it serves.

        A probe that runs already may have begun before the node could answer, so another one follows it.
        """
        breaker = self.breaker
        if breaker is None or not breaker.is_open:
            return True
        for _ in range(2):
            is_own = breaker.begin_probe(at_once=True)
            if is_own:
                self._start_probe()
            if breaker.wait_for_probe(2 * self._timeout):
                return True
            if is_own:
                return False
        return False

    def release_orphans(self) -> None:
        """Start a probe that releases the leases which this process has given up, if the node answers.

        If the last command failed, the next one that is answered does so.
        """
        if self.breaker is None or self.breaker.has_failures or self.breaker.is_open:
            return
        if self.replay is not None and self.replay.has_orphans():
            self.request_replay()

    def _start_probe(self) -> None:
        assert self.breaker is not None  # noqa: S101  # the caller has checked it
        try:
            self._spawn(self._probe)
        except RuntimeError as error:  # the process cannot start a thread; its caller needs no probe
            raise_interrupt(error)
            self.breaker.probe_failed(NodeUnavailableError(f"node {self.name!r} cannot be probed: {error}"))

    @staticmethod
    def _spawn(probe: Callable[[], None]) -> None:
        start_thread(threading.Thread(target=probe, name="ringcache-probe", daemon=True))

    def _probe(self) -> None:
        """Send PING to the node; if it answers, replay missed deletes to it and close the breaker."""
        assert self.breaker is not None  # noqa: S101  # the caller has checked it
        connection = None
        self.breaker.probe_begun()
        try:
            self._prepare_probe()
            connection = self._pool.make()
            self._check_probe(connection)
            self.breaker.begin_replay()
            self._replay_and_close(connection)
        except BaseException as error:  # noqa: BLE001  # after any error the breaker stays open
            if connection is not None:
                connection.close()
            self.breaker.probe_failed(self._probe_error(error))
        else:
            self._pool.release_or_close(connection)

    def _prepare_probe(self) -> None:
        """Find out where to connect, if that may have changed."""

    def _check_probe(self, connection: Connection) -> None:
        """Check that the node answers.

        Raises:
            OSError: The connection failed.
            RingCacheError: The node cannot serve.
        """
        self._exchange(connection, [(b"PING",)])

    def _exchange(self, connection: Connection, commands: Sequence[Command]) -> list[Reply]:
        """Send commands over a connection and return their replies.

        Raises:
            OSError: The connection failed.
            RingCacheError: The node answered one of them with an error.
        """
        connection.send(commands)
        replies = list(connection.replies(commands))
        for reply in replies:
            if isinstance(reply, RingCacheError):
                raise reply
        return replies

    def _before_replay(self, connection: Connection) -> None:
        """Prepare the node for a replay, or for the rest of one; raises as ``_check_probe`` does."""

    def _replay_and_close(self, connection: Connection) -> None:
        """Replay missed deletes until none is left, and close the breaker.

        A node that serves reads gets only what this process has missed. The outbox need not be read: what
        other processes have missed is for the relay, and a database that is down must not eject the node.
        If the node is ejected meanwhile, it gets all.
        """
        assert self.breaker is not None  # noqa: S101  # the caller has checked it
        replay, breaker, has_all = self.replay, self.breaker, False
        if replay is None:
            breaker.close(partial(self._is_replayed, lambda: True))
            return
        exchange = partial(self._exchange, connection)
        run = replay.replay_own
        while True:
            self._before_replay(connection)
            if breaker.is_open and not has_all:
                run, has_all = replay.replay_all, True
            run(exchange)
            is_enough = partial(_is_enough, breaker, replay, has_all=has_all)
            if breaker.close(partial(self._is_replayed, is_enough)):
                return
            run = replay.replay_rest

    def _is_replayed(self, is_complete: Callable[[], bool]) -> bool:
        """Return whether the node has got all missed deletes; called in one step with closing the breaker."""
        return is_complete()

    def _probe_error(self, error: BaseException) -> RingCacheError:
        """Return our error for a probe that failed, which may have another cause than the node."""
        if isinstance(error, RingCacheError):
            return error
        if isinstance(error, CONNECTION_ERRORS):
            return unavailable(self.name, error, self._timeout)
        message = f"node {self.name!r} answers, but its missed deletes cannot be replayed: {error!r}"
        return NodeUnavailableError(message)


def _is_enough(breaker: Breaker, replay: Replay, *, has_all: bool) -> bool:
    """Return whether nothing is left to replay; a node that was ejected meanwhile needs all."""
    return (has_all or not breaker.is_open) and replay.is_complete()
