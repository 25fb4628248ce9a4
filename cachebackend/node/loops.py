"""The multiplexed connection of each event loop, closed when its loop ends.

Django makes a short-lived loop for every ``async_to_sync`` and for every test, so the
end of a loop must not leave a connection behind. asyncio closes the async generators
of a loop before the loop (``shutdown_asyncgens``, PEP 525); one that waits in each
loop is how we are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from cachebackend.node.handshake import Handshake
from cachebackend.node.multiplexed import MultiplexedConnection
from cachebackend.node.translate import CONNECTION_ERRORS

__all__ = ["LoopConnections"]


class _OfLoop:
    """What one event loop holds of a node."""

    __slots__ = ("connection", "ending", "failure", "opening")

    def __init__(self) -> None:
        self.connection: MultiplexedConnection | None = None
        self.opening = asyncio.Lock()
        #: What the last try to connect ended in; None: in a connection.
        self.failure: Exception | None = None
        self.ending: AsyncGenerator[None, None] | None = None


class LoopConnections:
    """One node's connections, at most one an event loop."""

    def __init__(self, handshake: Handshake, timeout: float) -> None:
        self._handshake = handshake
        self._timeout = timeout
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}

    def standing(self) -> MultiplexedConnection | None:
        """Return the running loop's connection, if it stands."""
        mine = self._loops.get(asyncio.get_running_loop())
        if mine is None or mine.connection is None or mine.connection.is_closed:
            return None
        return mine.connection

    async def open(self) -> MultiplexedConnection:
        """Return the running loop's connection, made now if need be.

        Tasks that ask at once share it, or the failure to make it: who waited for one try
        would wait as long for the next, and so on in a queue.

        Raises:
            OSError, redis.RedisError: It could not be made.
        """
        loop = asyncio.get_running_loop()
        self.forget_closed_loops()
        mine = self._loops.setdefault(loop, _OfLoop())
        known = mine.failure
        async with mine.opening:
            if (connection := self.standing()) is not None:
                return connection
            if mine.failure is not None and mine.failure is not known:
                raise mine.failure
            try:
                connection = await MultiplexedConnection.open(self._handshake, self._timeout)
            except CONNECTION_ERRORS as error:
                mine.failure = error
                raise
            mine.connection, mine.failure = connection, None
            if mine.ending is None:
                mine.ending = self._close_with_loop(mine)
                await anext(mine.ending)
            return connection

    def forget_closed_loops(self) -> None:
        """Close what loops left that were closed without closing their generators first."""
        for loop in list(self._loops):  # other threads' loops come and go meanwhile
            if loop.is_closed() and (left := self._loops.pop(loop, None)) is not None:
                connection = left.connection
                if connection is not None and not connection.is_closed:
                    connection.forget()

    @staticmethod
    async def _close_with_loop(mine: _OfLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if mine.connection is not None:
                mine.connection.close()
                await asyncio.sleep(0)  # lets the transport close its socket

    def after_fork(self) -> None:
        """Let go of the parent's connections; to close one would disturb the parent's event loop."""
        _OF_THE_PARENT.append(self._loops)
        self._loops = {}

    def __len__(self) -> int:
        return sum(m.connection is not None and not m.connection.is_closed for m in self._loops.values())


#: What a forked child inherited and must neither use nor close.
_OF_THE_PARENT: list[dict[asyncio.AbstractEventLoop, _OfLoop]] = []
