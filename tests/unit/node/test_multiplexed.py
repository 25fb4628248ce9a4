"""A multiplexed connection: when it writes, and that its timeout counts seconds without activity."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from cachebackend.node import multiplexed
from cachebackend.node.multiplexed import MultiplexedConnection
from cachebackend.node.pace import BYTES_A_TIMEOUT

TIMEOUT = 0.25


class LimitError(Exception):
    """The limit of a project, which a signal handler raises."""


class Clock:
    """Replaces the time of a loop; it changes only by steps."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = 0.0
        loop.time = lambda: self.now  # type: ignore[method-assign]

    async def step(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)


class SlowTransport:
    """Buffers the bytes that are written; a test decides when they are sent."""

    def __init__(self) -> None:
        self.unsent = 0
        self.is_aborted = False
        self.writes: list[bytes] = []
        #: Raised by the next write.
        self.interrupt: BaseException | None = None

    def write(self, data: bytes) -> None:
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            raise interrupt
        self.writes.append(data)
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
    connection = MultiplexedConnection(TIMEOUT)
    connection.connection_made(transport)
    return connection, transport, clock


def command(name: str) -> list[tuple[bytes | str, ...]]:
    return [(b"GET", name)]


def test_the_first_batch_is_written_at_once_and_the_others_together() -> None:
    """A task alone waits for nothing, and a hundred tasks need two writes."""

    async def run() -> list[bytes]:
        connection, transport, clock = opened()
        replies = [connection.submit(command("a"))]
        assert len(transport.writes) == 1
        replies += [connection.submit(command("b")), connection.submit(command("c"))]
        assert len(transport.writes) == 1
        await clock.step(0)
        assert len(transport.writes) == 2
        connection.data_received(b"+A\r\n+B\r\n")
        replies.append(connection.submit(command("d")))
        await clock.step(0)
        assert [data.count(b"GET") for data in transport.writes] == [1, 2, 1]
        connection.data_received(b"+C\r\n+D\r\n")
        return [(await reply)[0] for reply in replies]

    assert asyncio.run(run()) == [b"A", b"B", b"C", b"D"]


def test_a_connection_that_is_closed_writes_nothing_more() -> None:
    """The batches that it has not written fail with those in flight."""

    async def run() -> None:
        connection, transport, clock = opened()
        replies = [connection.submit(command(name)) for name in "ab"]
        connection.close()
        await clock.step(0)
        assert len(transport.writes) == 1
        for reply in replies:
            with pytest.raises(ConnectionResetError):
                await reply

    asyncio.run(run())


def test_a_batch_whose_write_is_interrupted_gets_no_reply() -> None:
    """Whether the command was written is not known, so the connection closes."""

    async def run() -> None:
        connection, transport, _ = opened()
        transport.interrupt = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            connection.submit(command("a"))
        assert connection.is_closed
        with pytest.raises(ConnectionResetError):
            await connection.submit(command("b"))

    asyncio.run(run())


def test_batches_whose_common_write_is_interrupted_fail() -> None:
    """The connection closes, because which of their commands were written is not known."""

    async def run() -> None:
        connection, transport, clock = opened()
        replies = [connection.submit(command(name)) for name in "ab"]
        transport.interrupt = LimitError()
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await clock.step(0)
        assert len(transport.writes) == 1
        for reply in replies:
            with pytest.raises(LimitError):
                await reply
        with pytest.raises(ConnectionResetError):
            await connection.submit(command("c"))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("interrupt", "raised"),
    [(KeyboardInterrupt, ConnectionResetError), (LimitError, LimitError), (MemoryError, MemoryError)],
)
def test_a_read_that_is_interrupted_ends_the_connection(
    interrupt: type[BaseException], raised: type[Exception]
) -> None:
    """A reply may have been taken from the parser and be in no batch yet. The tasks get the error."""

    async def run() -> None:
        connection, transport, _ = opened()
        replies = [connection.submit(command(name)) for name in "ab"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multiplexed, "fits", lambda *_: signal.raise_signal(signal.SIGUSR1))
            with raising(interrupt), pytest.raises(interrupt):
                connection.data_received(b"+A\r\n")
        assert transport.is_closing()
        connection.connection_lost(None)
        for reply in replies:
            with pytest.raises(raised):
                await reply

    asyncio.run(run())


def test_a_timer_that_is_interrupted_ends_the_connection() -> None:
    """Nothing else would end the wait of the tasks."""

    async def run() -> None:
        connection, transport, clock = opened()
        reply = connection.submit(command("a"))
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        with pytest.MonkeyPatch.context() as patch, raising(LimitError):
            patch.setattr(multiplexed, "allowed_seconds", lambda *_: signal.raise_signal(signal.SIGUSR1))
            await clock.step(TIMEOUT)
        assert transport.is_closing()
        with pytest.raises(LimitError):
            await reply

    asyncio.run(run())


@contextlib.contextmanager
def raising(error: type[BaseException]) -> Iterator[None]:
    """Raise an error in the handler of a signal."""

    def handle(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_batch_that_is_being_sent_does_not_time_out() -> None:
    """Sending takes ten timeouts, and then the reply arrives."""

    async def run() -> list[Any]:
        connection, transport, clock = opened()
        replies = connection.submit([(b"SET", b"k", bytes(1000))])
        for _ in range(10):
            transport.unsent -= 50
            await clock.step(TIMEOUT)
            await clock.step(TIMEOUT / 10)  # the grace period
        connection.data_received(b"+OK\r\n")
        return await replies

    assert asyncio.run(run()) == [b"OK"]


def test_a_reply_that_is_arriving_does_not_time_out() -> None:
    """A long reply arrives in pieces, and takes nine timeouts."""

    async def run() -> list[Any]:
        connection, transport, clock = opened()
        replies = connection.submit([(b"GET", b"k")])
        transport.unsent = 0
        connection.data_received(b"$%d\r\n" % (10 * BYTES_A_TIMEOUT))
        for _ in range(10):
            await clock.step(TIMEOUT * 0.9)
            connection.data_received(b"x" * BYTES_A_TIMEOUT)
        connection.data_received(b"\r\n")
        return [len(reply) for reply in await replies]

    assert asyncio.run(run()) == [10 * BYTES_A_TIMEOUT]


def test_replies_that_come_one_by_one_time_out() -> None:
    """Each comes before the timeout, but together they are too slow; another task's batch fails with them."""

    async def run() -> None:
        connection, transport, clock = opened()
        pipeline = connection.submit([(b"SET", b"k", b"v")] * 40)
        other = connection.submit([(b"GET", b"k")])
        transport.unsent = 0
        for _ in range(3):
            await clock.step(TIMEOUT * 0.8)
            connection.data_received(b"+OK\r\n")
        await clock.step(0.02)
        for batch in (pipeline, other):
            with pytest.raises(TimeoutError):
                await batch

    asyncio.run(run())


def test_tasks_behind_each_other_have_a_timeout_each() -> None:
    """A batch counts from when it is the first in flight."""

    async def run() -> list[Any]:
        connection, transport, clock = opened()
        batches = [connection.submit([(b"GET", b"k")]) for _ in range(10)]
        transport.unsent = 0
        for _ in batches:
            await clock.step(TIMEOUT * 0.8)
            connection.data_received(b"$1\r\nx\r\n")
        return await asyncio.gather(*batches)

    assert asyncio.run(run()) == [[b"x"]] * 10


def test_a_batch_without_activity_times_out() -> None:
    """No byte is sent or received for a timeout and the grace period after it."""

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
