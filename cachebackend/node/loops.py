"""The multiplexed connection of each event loop, which is closed when its loop ends.

Django makes a short-lived loop for every ``async_to_sync`` and for every test, so a loop that ends
must not leave an open connection. asyncio closes the async generators of a loop before it closes the
loop (``shutdown_asyncgens``, PEP 525). So each loop has a generator that waits, and closes the
connection when it is closed itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from cachebackend.interrupts import raise_interrupt
from cachebackend.node.handshake import Handshake
from cachebackend.node.multiplexed import MultiplexedConnection
from cachebackend.node.translate import CONNECTION_ERRORS

__all__ = ["LoopConnections"]


class _LoopState:
    """The connection of one event loop to a node, and what belongs to it."""

    __slots__ = ("closer", "connection", "failure", "generation", "opening")

    def __init__(self) -> None:
        self.connection: MultiplexedConnection | None = None
        #: The generation of the node's connections that it belongs to.
        self.generation = 0
        self.opening = asyncio.Lock()
        #: The error of the last attempt to connect; None: it was successful.
        self.failure: Exception | None = None
        #: The generator that closes the connection when the loop ends.
        self.closer: AsyncGenerator[None, None] | None = None


class LoopConnections:
    """The multiplexed connections to one node, at most one for each event loop."""

    def __init__(self, handshake: Handshake, timeout: float) -> None:
        self._handshake = handshake
        self._timeout = timeout
        self._loops: dict[asyncio.AbstractEventLoop, _LoopState] = {}
        self._generation = 0

    def current(self) -> MultiplexedConnection | None:
        """Return the running loop's connection; None if it is not open."""
        state = self._loops.get(asyncio.get_running_loop())
        if state is None or state.connection is None or state.generation != self._generation:
            return None
        return state.connection if state.connection.is_usable else None

    async def open(self) -> MultiplexedConnection:
        """Return the running loop's connection; connect if it is not open.

        Tasks that call this at the same time share the connection, or the error of the attempt. If
        each task made its own attempt, tasks would queue, and the last would wait for all timeouts.

        Raises:
            OSError: The connection could not be made.
        """
        loop = asyncio.get_running_loop()
        self.forget_closed_loops()
        state = self._loops.setdefault(loop, _LoopState())
        earlier_failure = state.failure
        async with state.opening:
            if (connection := self.current()) is not None:
                return connection
            if state.failure is not None and state.failure is not earlier_failure:
                raise state.failure
            if state.connection is not None:
                state.connection.retire()
            generation = self._generation  # before the address is looked up: it may change meanwhile
            try:
                connection = await MultiplexedConnection.open(self._handshake, self._timeout)
            except CONNECTION_ERRORS as error:
                state.failure = error
                raise
            state.connection, state.generation, state.failure = connection, generation, None
            if state.closer is None:
                state.closer = self._close_with_loop(state)
                await anext(state.closer)
            return connection

    def retire(self) -> None:
        """Use new connections from now on; the present ones are closed when their replies have arrived."""
        self._generation += 1
        for loop, state in list(self._loops.items()):  # other threads add and remove loops meanwhile
            connection = state.connection
            if connection is not None and not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(connection.retire)
                except RuntimeError as error:  # the loop was closed meanwhile
                    raise_interrupt(error)

    def forget_closed_loops(self) -> None:
        """Close the connections of loops that were closed without closing their generators first."""
        for loop in list(self._loops):  # other threads add and remove loops meanwhile
            if loop.is_closed() and (state := self._loops.pop(loop, None)) is not None:
                connection = state.connection
                if connection is not None and not connection.is_closed:
                    connection.forget()

    @staticmethod
    async def _close_with_loop(state: _LoopState) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if state.connection is not None:
                state.connection.close()
                await asyncio.sleep(0)  # the transport closes its socket in this step of the loop

    def after_fork(self) -> None:
        """Stop using the parent's connections, in a forked child; closing one would disturb its loop."""
        _INHERITED.append(self._loops)
        self._loops = {}

    def __len__(self) -> int:
        return sum(s.connection is not None and s.connection.is_usable for s in self._loops.values())


#: The connections that a forked child inherited. It must not use, close or garbage-collect them.
_INHERITED: list[dict[asyncio.AbstractEventLoop, _LoopState]] = []
