"""When the confirmed outbox rows of a process are deleted."""

from __future__ import annotations

import pytest

from cachebackend.clock import SystemClock
from cachebackend.invalidation import confirmed_rows
from cachebackend.invalidation.confirmed_rows import BATCH_ROWS, BATCH_SECONDS, _Waiting


class HeldClock(SystemClock):
    """A clock that a test advances."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HeldClock:
    clock = HeldClock()
    monkeypatch.setattr(confirmed_rows, "SYSTEM_CLOCK", clock)
    monkeypatch.setattr(confirmed_rows, "BATCH_SECONDS", BATCH_SECONDS)
    return clock


def test_a_first_row_is_deleted_at_once(clock: HeldClock) -> None:
    """A program that writes rarely leaves no row to the relay."""
    waiting = _Waiting()
    waiting.add([1])
    assert waiting.take() == [1]


def test_rows_wait_until_a_batch_is_full(clock: HeldClock) -> None:
    """Then they are deleted together."""
    waiting = _Waiting()
    waiting.take()
    waiting.add(range(BATCH_ROWS - 1))
    assert not waiting.take()
    waiting.add([BATCH_ROWS])
    assert len(waiting.take()) == BATCH_ROWS


def test_rows_wait_for_a_limited_time(clock: HeldClock) -> None:
    """The relay must not find them."""
    waiting = _Waiting()
    waiting.take()
    waiting.add([1])
    assert not waiting.take()
    clock.now += BATCH_SECONDS
    assert waiting.take() == [1]
