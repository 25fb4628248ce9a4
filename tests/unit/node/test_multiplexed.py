"""The timeout of a multiplexed connection: what moves is not late, however long it takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachebackend.node.multiplexed import MultiplexedConnection

TIMEOUT = 0.25


class Clock:
    """Holds a loop's time still between steps."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = 0.0
        loop.time = lambda: self.now  # type: ignore[method-assign]

    async def step(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)


class SlowTransport:
    """Takes what is written, and sends none of it by itself."""

    def __init__(self) -> None:
        self.unsent = 0
        self.is_aborted = False
        self.transport = self  # stands for its own writer too

    def write(self, data: bytes) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


def opened() -> tuple[MultiplexedConnection, SlowTransport, Clock]:
    """Return a connection in the running loop, its transport, and the loop's clock."""
    clock = Clock(asyncio.get_running_loop())
    transport: Any = SlowTransport()
    return MultiplexedConnection(transport, TIMEOUT), transport, clock


def test_a_batch_that_is_being_sent_is_not_late() -> None:
    """Ten timeouts go by while bytes leave; the answer then arrives."""

    async def run() -> list[Any]:
        connection, transport, clock = opened()
        replies = connection.submit([(b"SET", b"k", bytes(1000))])
        for _ in range(10):
            transport.unsent -= 50
            await clock.step(TIMEOUT)
            await clock.step(TIMEOUT / 10)  # for the second look
        connection.data_received(b"+OK\r\n")
        return await replies

    assert asyncio.run(run()) == [b"OK"]


def test_an_answer_that_is_arriving_is_not_late() -> None:
    """Ten timeouts go by while a long answer comes in, piece by piece."""

    async def run() -> list[Any]:
        connection, transport, clock = opened()
        replies = connection.submit([(b"GET", b"k")])
        transport.unsent = 0
        connection.data_received(b"$100\r\n")
        for _ in range(10):
            await clock.step(TIMEOUT * 0.9)
            connection.data_received(b"x" * 10)
        connection.data_received(b"\r\n")
        return await replies

    assert asyncio.run(run()) == [b"x" * 100]


def test_a_batch_that_stands_still_is_late() -> None:
    """Nothing leaves and nothing comes for a timeout, and for the second look after it."""

    async def run() -> None:
        connection, transport, clock = opened()
        replies = connection.submit([(b"SET", b"k", bytes(1000))])
        transport.unsent -= 500
        await clock.step(TIMEOUT)
        await clock.step(TIMEOUT / 2)
        assert not replies.done()
        await clock.step(TIMEOUT / 2)
        await clock.step(0.02)
        with pytest.raises(TimeoutError):
            await replies

    asyncio.run(run())
