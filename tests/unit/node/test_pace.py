"""The slowest pace of a reply."""

from __future__ import annotations

import pytest

from cachebackend.node import pace
from cachebackend.node.pace import BYTES_A_TIMEOUT, REPLY_BYTES, Pace


class Moments:
    """A clock that moves only when the test moves it."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Moments:
    moments = Moments()
    monkeypatch.setattr(pace, "time", moments)
    return moments


def test_single_bytes_do_not_hold_a_call(clock: Moments) -> None:
    """After one timeout the reply is too late, although each byte came in time."""
    reply = Pace(1.0)
    reply.received(1)
    for _ in range(4):
        clock.at += 0.25
        reply.received(1)
    clock.at += 0.25
    with pytest.raises(TimeoutError):
        reply.received(1)


def test_a_large_reply_may_take_longer(clock: Moments) -> None:
    """As long as it brings enough bytes in each timeout."""
    reply = Pace(1.0)
    reply.received(1)
    for _ in range(100):
        clock.at += 1.0
        reply.received(BYTES_A_TIMEOUT)
    clock.at += 1.5
    with pytest.raises(TimeoutError):
        reply.received(1)


def test_many_replies_may_take_longer_than_one(clock: Moments) -> None:
    """In proportion to their number: one reply for each timeout is too slow."""
    exchange = Pace(1.0)
    for _ in range(5 * BYTES_A_TIMEOUT // REPLY_BYTES):
        clock.at += REPLY_BYTES / BYTES_A_TIMEOUT
        exchange.received(5)
        exchange.completed(1)
    slow = Pace(1.0)
    for _ in range(2):
        slow.received(5)
        slow.completed(1)
        clock.at += 0.8
    with pytest.raises(TimeoutError):
        slow.received(5)
