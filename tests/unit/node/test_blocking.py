"""Blocking connections, at one end of a pair of sockets."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cachebackend.clock import SystemClock
from cachebackend.node.blocking import CHECK_AFTER_SECONDS, IDLE_SECONDS, BlockingPool, Connection
from cachebackend.node.pace import Pace

#: Signals after which a call that still waits has no limit: ten times its timeout.
SIGNALS = 200
TIMEOUT = 0.05


class HeldClock(SystemClock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:  # type: ignore[override]  # SystemClock has the function itself
        """Return the time that the test has set."""
        return self.seconds


class PairHandshake:
    """Opens connections to the test itself; ``nodes`` are the other ends."""

    name = "a"

    def __init__(self) -> None:
        self.nodes: list[socket.socket] = []
        self._ours: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """Return one end of a new pair."""
        ours, node = socket.socketpair()
        self.nodes.append(node)
        self._ours.append(ours)
        return ours

    def perform(self, exchange: object) -> None:
        """Send nothing."""

    def close(self) -> None:
        """Close both ends of each."""
        for each in self.nodes + self._ours:
            each.close()


@pytest.fixture
def handshake() -> Iterator[Any]:
    """Return a handshake whose sockets are closed after the test."""
    made = PairHandshake()
    yield made
    made.close()


def test_a_command_that_the_socket_has_no_room_for_is_sent_whole(handshake: Any) -> None:
    """The rest of it waits until the node has read the beginning."""
    connection = Connection(handshake, 5.0)
    [node] = handshake.nodes
    value, received = b"x" * 5_000_000, bytearray()

    def read_and_answer() -> None:
        while not received.endswith(b"x\r\n"):
            received.extend(node.recv(65_536))
        node.sendall(b"+OK\r\n")

    reader = threading.Thread(target=read_and_answer)
    reader.start()
    assert connection.call((b"SET", b"key", value)) == b"OK"
    reader.join()
    assert value in received
    connection.close()


def test_a_full_socket_that_nobody_reads_times_out(handshake: Any) -> None:
    """A node that hangs does not hold a caller, even if nothing can be sent to it."""
    connection = Connection(handshake, TIMEOUT)
    with pytest.raises(TimeoutError):
        connection.call((b"SET", b"key", b"x" * 5_000_000))
    with pytest.raises(TimeoutError):
        connection.call((b"GET", b"key"))
    connection.close()


def test_signals_do_not_prolong_a_wait(handshake: Any) -> None:
    """Each signal interrupts the wait for a reply, which continues for the rest of the timeout only."""
    connection = Connection(handshake, TIMEOUT)
    signals = 0

    def count(*_: object) -> None:
        nonlocal signals
        signals += 1
        if signals > SIGNALS:
            pytest.fail("the wait begins again with each signal")

    previous = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT / 20, TIMEOUT / 20)
    try:
        with pytest.raises(TimeoutError):
            connection.call((b"GET", b"key"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        connection.close()


def test_the_last_connection_that_was_put_back_is_taken_first(handshake: Any) -> None:
    """So a burst of threads does not keep its connections open: those at the other end are closed in time."""
    clock = HeldClock()
    pool = BlockingPool(handshake, TIMEOUT, clock)
    first, second = pool.take(), pool.take()
    pool.release(first)
    pool.release(second)
    clock.seconds += IDLE_SECONDS + 1
    assert pool.take() is second
    pool.release(second)
    assert handshake.nodes[0].recv(1) == b""
    assert pool.take() is second


def test_an_idle_connection_that_the_node_has_closed_is_not_used(handshake: Any) -> None:
    """It is checked if it was not used for a moment; before that, no node has restarted."""
    clock = HeldClock()
    pool = BlockingPool(handshake, TIMEOUT, clock)
    closed = pool.take()
    pool.release(closed)
    handshake.nodes[0].close()
    assert pool.take() is closed
    pool.release(closed)
    clock.seconds += 2 * CHECK_AFTER_SECONDS
    assert pool.take() is not closed


def test_bytes_that_come_too_late_are_not_lost(handshake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracking thread reads on after a timeout: without them a PONG would take the place of a key."""
    connection = Connection(handshake, TIMEOUT)

    def late(*_: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(Pace, "received", late)
        handshake.nodes[0].sendall(b"*2\r\n$1\r\na\r\n")
        with pytest.raises(TimeoutError):
            connection.read((b"PING",))
    handshake.nodes[0].sendall(b"$1\r\nb\r\n")
    assert connection.read((b"PING",)) == [b"a", b"b"]
