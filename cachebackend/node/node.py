"""A node: sends commands and returns replies, in blocking code and in asyncio.

Threads, tasks and event loops may share a node, and it works in a forked child.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias
from weakref import WeakSet

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.effects import Command, Reply, is_promise
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.blocking import BlockingPool, Connection
from cachebackend.node.breaker import Breaker
from cachebackend.node.endpoint import Locator
from cachebackend.node.handshake import Handshake
from cachebackend.node.loops import LoopConnections
from cachebackend.node.multiplexed import MultiplexedConnection
from cachebackend.node.promises import PromiseWait
from cachebackend.node.translate import CONNECTION_ERRORS, MalformedReplyError, is_timeout, unavailable
from cachebackend.options import NodeAddress
from cachebackend.threads import start_thread

if TYPE_CHECKING:
    from cachebackend.node.clients import RedisClient

__all__ = ["Exchange", "Node", "Replay"]

#: Sends commands and returns their replies; raises if one of them is an error.
Exchange: TypeAlias = Callable[[Sequence[Command]], list[Reply]]


class Replay(Protocol):
    """Replays the deletes that a node missed, after a probe was answered and before it serves reads."""

    def replay_all(self, exchange: Exchange) -> None:
        """Replay the deletes that any process has missed; raises the error that prevents it."""
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


class Node:
    """One server of a ring.

    Args:
        address: Its name and URL.
        connect_timeout: The most seconds that connecting may take.
        socket_timeout: The most seconds that a reply may take.
        clock: The source of time.
        locator: Finds host and port of a server that may move; None: the URL has them, or names sentinels.
    """

    def __init__(
        self,
        address: NodeAddress,
        connect_timeout: float,
        socket_timeout: float,
        clock: Clock = SYSTEM_CLOCK,
        locator: Locator | None = None,
    ) -> None:
        self.address = address
        self.name = address.name
        #: Identifies the node among processes, which may have different names for it.
        self.endpoint = address.endpoint
        #: Ejects the node when it fails; None: the node is never ejected.
        self.breaker: Breaker | None = None
        #: Replays missed deletes when the node is back; None: there is nothing to replay.
        self.replay: Replay | None = None
        #: Waits until replicas or disks have what the node has promised; None: it counts at once.
        self.promise_wait: PromiseWait | None = None
        self._timeout = socket_timeout
        self.handshake = handshake = Handshake(
            address.url, connect_timeout, socket_timeout, address.password, locator
        )
        self._pool = BlockingPool(handshake, socket_timeout, clock)
        self._loops = LoopConnections(handshake, socket_timeout)
        _NODES.add(self)

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; a failure is returned as the reply."""
        breaker = self.breaker
        if breaker is not None and breaker.is_open:
            return self._ejected_error()
        if self.promise_wait is not None and is_promise(command):
            return Node.send(self, [command]).receive()[0]
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            return self._record_failure(error)
        try:
            reply = connection.call(command)
        except CONNECTION_ERRORS as error:
            connection.close()
            raise_interrupt(error)
            return self._record_failure(error, was_sent=True)
        except BaseException:
            connection.close()
            raise
        self._pool.release(connection)
        if breaker is not None and (breaker.has_failures or reply.__class__ is NodeUnavailableError):
            self._record_reply(reply)
        return reply

    def send(self, commands: Sequence[Command]) -> PendingReplies:
        """Send commands; ``receive`` of the result returns their replies."""
        if self.breaker is not None and self.breaker.is_open:
            return PendingReplies(self, commands, None, self._ejected_error())
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            return PendingReplies(self, commands, None, self._record_failure(error))
        sent = commands if self.promise_wait is None else self.promise_wait.added(commands)
        try:
            connection.send(sent)
        except CONNECTION_ERRORS as error:
            connection.close()
            raise_interrupt(error)
            return PendingReplies(self, commands, None, self._record_failure(error, was_sent=True))
        except BaseException:
            connection.close()
            raise
        return PendingReplies(self, commands, connection, None, sent)

    def submit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Return an awaitable of the replies; if the loop's connection is open, the commands are sent now."""
        if self.breaker is not None and self.breaker.is_open:
            ejected: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
            ejected.set_result([self._ejected_error()] * len(commands))
            return ejected
        connection = self._loops.current()
        if connection is None:
            return self._open_and_submit(commands)
        return self._submit(connection, commands)

    def fail(self, reason: str) -> NodeUnavailableError:
        """Record that the node's replies, each valid, kept an operation in a loop; return our error.

        The node has answered many commands meanwhile, so this one failure ejects it.
        """
        failure = NodeUnavailableError(f"node {self.name!r} {reason}")
        failure.was_sent = True
        if self.breaker is not None:
            self.breaker.failed(failure, at_once=True)
        return failure

    def redis(self) -> RedisClient:
        """Return a new redis-py client; it connects when it is first used."""
        return self.handshake.client()

    @property
    def is_ejected(self) -> bool:
        """True if the node gets no commands now. Starts its probe if that is due."""
        if self.breaker is None or not self.breaker.is_open:
            return False
        self._ejected_error()
        return True

    def renew_connections(self) -> None:
        """Use new connections from now on; the present ones are closed when their replies have arrived."""
        self._pool.renew()
        self._loops.retire()

    def close(self) -> None:
        """Close idle blocking connections, and those of closed event loops; a running loop closes its own."""
        self._pool.close()
        self._loops.forget_closed_loops()

    def after_fork(self) -> None:
        """Stop using the parent's connections, in a forked child."""
        self._pool.close()
        self._loops.after_fork()
        if self.breaker is not None:
            self.breaker.after_fork()

    async def _open_and_submit(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            connection = await self._loops.open()
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            return [self._record_failure(error)] * len(commands)
        return await self._submit(connection, commands)

    def _submit(
        self, connection: MultiplexedConnection, commands: Sequence[Command]
    ) -> Awaitable[list[Reply]]:
        wait = self.promise_wait
        sent = commands if wait is None else wait.added(commands)
        return self._await(connection.submit(sent), commands)

    async def _await(self, replies: asyncio.Future[list[Reply]], commands: Sequence[Command]) -> list[Reply]:
        try:
            received = await replies
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            return [self._record_failure(error, was_sent=True)] * len(commands)
        self._record_replies(received)
        return received if self.promise_wait is None else self.promise_wait.settled(commands, received)

    def _record_failure(self, error: BaseException, *, was_sent: bool = False) -> NodeUnavailableError:
        """Close the idle connections, which have probably failed too; return our error, and record it."""
        self._pool.close()
        failure = unavailable(self.name, error, self._timeout)
        failure.was_sent = was_sent
        if self.breaker is not None:
            is_refused = isinstance(error, ConnectionRefusedError)
            is_late = self.breaker.opens_on_timeout and is_timeout(error)
            self.breaker.failed(failure, at_once=is_refused or is_late)
        return failure

    def _record_replies(self, replies: Sequence[Reply]) -> None:
        breaker = self.breaker
        if breaker is not None and (breaker.has_failures or NodeUnavailableError in map(type, replies)):
            failure = next((reply for reply in replies if reply.__class__ is NodeUnavailableError), None)
            self._record_reply(failure)

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
            self._replay_and_close(partial(self._exchange, connection))
        except BaseException as error:  # noqa: BLE001  # after any error the breaker stays open
            if connection is not None:
                connection.close()
            self.breaker.probe_failed(self._probe_error(error))
        else:
            self._pool.release(connection)

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

    def _replay_and_close(self, exchange: Exchange) -> None:
        assert self.breaker is not None  # noqa: S101  # the caller has checked it
        replay = self.replay
        if replay is None:
            self.breaker.close(partial(self._is_replayed, lambda: True))
            return
        replay.replay_all(exchange)
        while not self.breaker.close(partial(self._is_replayed, replay.is_complete)):
            replay.replay_rest(exchange)

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

    def __repr__(self) -> str:
        return f"Node({self.name!r})"


class PendingReplies:
    """The replies to commands that were sent to a node."""

    __slots__ = ("_commands", "_connection", "_error", "_node", "_sent")

    def __init__(
        self,
        node: Node,
        commands: Sequence[Command],
        connection: Connection | None,
        error: NodeUnavailableError | None,
        sent: Sequence[Command] = (),
    ) -> None:
        self._node = node
        self._sent = sent
        self._commands = commands
        self._connection = connection
        self._error = error

    def receive(self) -> list[Reply]:
        """Return the reply to each command; a reply that did not come is a NodeUnavailableError."""
        if self._connection is None:
            return [self._error] * len(self._commands)
        replies: list[Reply] = []
        try:
            for reply in self._connection.replies(self._sent):
                replies.append(reply)  # noqa: PERF402  # replies before a failure are kept
        except CONNECTION_ERRORS as error:
            self._connection.close()
            raise_interrupt(error)
            if isinstance(error, MalformedReplyError):
                replies.clear()  # they may be replies to other commands
            failure = self._node._record_failure(error, was_sent=True)  # both classes are one unit
            return self._settled([*replies, *[failure] * len(self._sent)][: len(self._sent)])
        except BaseException:
            self._connection.close()
            raise
        self._node._pool.release(self._connection)  # both classes are one unit
        self._node._record_replies(replies)  # both classes are one unit
        return self._settled(replies)

    def _settled(self, replies: list[Reply]) -> list[Reply]:
        wait = self._node.promise_wait
        return replies if wait is None else wait.settled(self._commands, replies)

    def abandon(self) -> None:
        """Close the connection: its replies would be read as the replies to the next commands."""
        if self._connection is not None:
            self._connection.close()


_NODES: WeakSet[Node] = WeakSet()


def _after_fork() -> None:
    for node in _NODES:
        node.after_fork()


os.register_at_fork(after_in_child=_after_fork)
