"""A node: commands in, replies out, blocking or in asyncio, safe over threads, tasks, loops and forks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias
from weakref import WeakSet

import redis.exceptions

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.node.blocking import BlockingPool, Connection
from cachebackend.node.breaker import Breaker
from cachebackend.node.handshake import Handshake, RedisClient
from cachebackend.node.loops import LoopConnections
from cachebackend.node.translate import CONNECTION_ERRORS, unavailable
from cachebackend.options import NodeAddress

__all__ = ["Exchange", "Node", "Replay"]

#: Sends commands and returns their replies; raises if any is an error.
Exchange: TypeAlias = Callable[[Sequence[Command]], list[Reply]]


class Replay(Protocol):
    """What a node missed, and is told when a probe was answered, before it is let in again."""

    def replay_all(self, exchange: Exchange) -> None:
        """Tell the node what any process owes it; raises what keeps it from being told."""
        ...

    def replay_rest(self, exchange: Exchange) -> None:
        """Tell the node what this process noted since; raises as ``replay_all``."""
        ...

    def is_complete(self) -> bool:
        """Return whether this process owes the node nothing now."""
        ...


class Node:
    """One server of a ring.

    Args:
        address: Its name and where it is.
        connect_timeout: Seconds until a connection must stand.
        socket_timeout: Seconds that an answer may take.
        clock: Where time is taken from.
    """

    def __init__(
        self, address: NodeAddress, connect_timeout: float, socket_timeout: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.address = address
        self.name = address.name
        #: What tells it from others wherever several processes speak of it, whatever they call it.
        self.endpoint = address.endpoint
        #: Ejects the node when it fails; None: it is asked whatever it did before.
        self.breaker: Breaker | None = None
        #: What it is told when it is back; None: it misses nothing that matters.
        self.replay: Replay | None = None
        self._timeout = socket_timeout
        self.handshake = handshake = Handshake(address.url, connect_timeout, socket_timeout)
        self._pool = BlockingPool(handshake, socket_timeout, clock)
        self._loops = LoopConnections(handshake, socket_timeout)
        _NODES.add(self)

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; a failure is returned in its place."""
        breaker = self.breaker
        if breaker is not None and breaker.is_open:
            return self._ejected()
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            return self._failed(error)
        try:
            reply = connection.call(command)
        except CONNECTION_ERRORS as error:
            connection.close()
            return self._failed(error, was_sent=True)
        except BaseException:
            connection.close()
            raise
        self._pool.release(connection)
        if breaker is not None and (breaker.has_failures or reply.__class__ is NodeUnavailableError):
            self._heard(reply)
        return reply

    def send(self, commands: Sequence[Command]) -> PendingReplies:
        """Send commands; their replies are read from what is returned."""
        if self.breaker is not None and self.breaker.is_open:
            return PendingReplies(self, len(commands), None, self._ejected())
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            return PendingReplies(self, len(commands), None, self._failed(error))
        try:
            connection.send(commands)
        except CONNECTION_ERRORS as error:
            connection.close()
            return PendingReplies(self, len(commands), None, self._failed(error, was_sent=True))
        except BaseException:
            connection.close()
            raise
        return PendingReplies(self, len(commands), connection, None)

    def submit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Send commands in the running event loop; at once where its connection stands."""
        if self.breaker is not None and self.breaker.is_open:
            ejected: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
            ejected.set_result([self._ejected()] * len(commands))
            return ejected
        connection = self._loops.standing()
        if connection is None:
            return self._open_and_submit(commands)
        return self._await(connection.submit(commands), len(commands))

    def redis(self) -> RedisClient:
        """Return a redis-py client with one connection of its own, made when it is first used."""
        return self.handshake.client()

    @property
    def is_ejected(self) -> bool:
        """True if it is not to be asked now; sees to its probe if that is due."""
        if self.breaker is None or not self.breaker.is_open:
            return False
        self._ejected()
        return True

    def close(self) -> None:
        """Close idle blocking connections, and those of event loops that ended; others end with theirs."""
        self._pool.close()
        self._loops.forget_closed_loops()

    def after_fork(self) -> None:
        """Let go of the parent's connections, in a forked child."""
        self._pool.close()
        self._loops.after_fork()
        if self.breaker is not None:
            self.breaker.after_fork()

    async def _open_and_submit(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            connection = await self._loops.open()
        except CONNECTION_ERRORS as error:
            return [self._failed(error)] * len(commands)
        return await self._await(connection.submit(commands), len(commands))

    async def _await(self, replies: asyncio.Future[list[Reply]], count: int) -> list[Reply]:
        try:
            found = await replies
        except CONNECTION_ERRORS as error:
            return [self._failed(error, was_sent=True)] * count
        self._heard_all(found)
        return found

    def _failed(self, error: BaseException, *, was_sent: bool = False) -> NodeUnavailableError:
        """Close the idle connections, which most likely failed with this one, and say what happened."""
        self._pool.close()
        failure = unavailable(self.name, error, self._timeout)
        failure.was_sent = was_sent
        if self.breaker is not None:
            self.breaker.failed(
                failure,
                at_once=isinstance(failure.__cause__, ConnectionRefusedError)
                or (isinstance(error, redis.exceptions.ConnectionError) and "refused" in str(error).lower()),
            )
        return failure

    def _heard_all(self, replies: Sequence[Reply]) -> None:
        breaker = self.breaker
        if breaker is not None:
            bad = next((reply for reply in replies if reply.__class__ is NodeUnavailableError), None)
            if bad is not None or breaker.has_failures:
                self._heard(bad)

    def _heard(self, reply: Reply) -> None:
        """Tell the breaker of an answer; one that says the node cannot serve is a failure too."""
        assert self.breaker is not None  # noqa: S101  # whoever calls has looked
        if not isinstance(reply, NodeUnavailableError):
            self.breaker.succeeded()
        elif reply.ejects:
            self.breaker.failed(reply)

    def _ejected(self) -> NodeUnavailableError:
        """Return the error of a node that is not asked; see to its probe if that is due."""
        assert self.breaker is not None  # noqa: S101  # whoever calls has looked
        if self.breaker.begin_probe():
            self._start_probe()
        return NodeUnavailableError(f"node {self.name!r} is ejected: {self.breaker.state.error}")

    def tend(self) -> None:
        """See to it that the node is told what it missed: soon, and by another thread."""
        if self.breaker is not None and self.breaker.begin_probe(early=True):
            self._start_probe()

    def _start_probe(self) -> None:
        assert self.breaker is not None  # noqa: S101  # whoever calls has looked
        try:
            self._spawn(self._probe)
        except RuntimeError as error:  # the process has as many threads as it may: not the caller's affair
            self.breaker.probe_failed(NodeUnavailableError(f"node {self.name!r} cannot be probed: {error}"))

    @staticmethod
    def _spawn(work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="ringcache-probe", daemon=True).start()

    def _probe(self) -> None:
        """Ask the node for a sign of life, tell it what it missed, and let it in again."""
        assert self.breaker is not None  # noqa: S101  # whoever calls has looked
        connection = None
        try:
            connection = self._pool.make()
            _exchange(connection, [(b"PING",)])
            self.breaker.replaying()
            self._let_in(partial(_exchange, connection))
        except Exception as error:  # noqa: BLE001  # whatever it was, the node is not let in
            if connection is not None:
                connection.close()
            self.breaker.probe_failed(self._why_not(error))
        else:
            self._pool.release(connection)

    def _let_in(self, exchange: Exchange) -> None:
        assert self.breaker is not None  # noqa: S101  # whoever calls has looked
        if self.replay is None:
            self.breaker.close()
            return
        self.replay.replay_all(exchange)
        while not self.breaker.close(self.replay.is_complete):
            self.replay.replay_rest(exchange)

    def _why_not(self, error: Exception) -> RingCacheError:
        """Return why the node was not let in: it need not be the node's own fault."""
        if isinstance(error, RingCacheError):
            return error
        if isinstance(error, CONNECTION_ERRORS):
            return unavailable(self.name, error, self._timeout)
        message = f"node {self.name!r} answers, but what it missed cannot be found out: {error!r}"
        return NodeUnavailableError(message)

    def __repr__(self) -> str:
        return f"Node({self.name!r})"


class PendingReplies:
    """Replies still to be read from a node."""

    __slots__ = ("_connection", "_count", "_error", "_node")

    def __init__(
        self, node: Node, count: int, connection: Connection | None, error: NodeUnavailableError | None
    ) -> None:
        self._node = node
        self._count = count
        self._connection = connection
        self._error = error

    def receive(self) -> list[Reply]:
        """Return a reply for each command; those that did not come are NodeUnavailableError."""
        if self._connection is None:
            return [self._error] * self._count
        replies: list[Reply] = []
        try:
            for _ in range(self._count):
                replies.append(self._connection.read())  # noqa: PERF401  # what was read before a failure counts
        except CONNECTION_ERRORS as error:
            self._connection.close()
            failure = self._node._failed(error, was_sent=True)  # its own other half
            return replies + [failure] * (self._count - len(replies))
        except BaseException:
            self._connection.close()
            raise
        self._node._pool.release(self._connection)  # its own other half
        self._node._heard_all(replies)  # its own other half
        return replies

    def abandon(self) -> None:
        """Close the connection, for its replies would be taken for the next user's."""
        if self._connection is not None:
            self._connection.close()


def _exchange(connection: Connection, commands: Sequence[Command]) -> list[Reply]:
    """Send commands and return their replies.

    Raises:
        OSError: The connection failed.
        RingCacheError: The node answered one with an error.
    """
    connection.send(commands)
    replies = [connection.read() for _ in commands]
    for reply in replies:
        if isinstance(reply, RingCacheError):
            raise reply
    return replies


_NODES: WeakSet[Node] = WeakSet()


def _after_fork() -> None:
    for node in _NODES:
        node.after_fork()


os.register_at_fork(after_in_child=_after_fork)
