"""Tokens, and the rate limit of log messages."""

from __future__ import annotations

import random

from cachebackend.clock import SYSTEM_CLOCK, TOKEN_BYTES, LogRateLimit, RateLimit, SystemClock


class HeldClock(SystemClock):
    """A clock that a test moves."""

    seconds = 100.0

    def monotonic(self) -> float:  # type: ignore[override]  # a method, so that it sees the seconds
        return self.seconds


def test_no_two_tokens_are_equal() -> None:
    """They are random, and 16 bytes long."""
    tokens = {SYSTEM_CLOCK.token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {TOKEN_BYTES}


def test_random_numbers_leave_the_sequence_of_the_project_alone() -> None:
    """Nor do they depend on its seed, which may be the same in each process."""
    before = random.getstate()
    random.seed(1)
    state, first = random.getstate(), SYSTEM_CLOCK.random()
    random.seed(1)
    assert SYSTEM_CLOCK.random() != first
    assert random.getstate() == state
    random.setstate(before)


def test_a_rate_limit_allows_the_first_time_and_once_in_its_seconds() -> None:
    """A refusal does not begin another wait."""
    clock = HeldClock()
    limit = RateLimit(clock, 60.0)
    assert [limit.allows(), limit.allows()] == [True, False]
    clock.seconds += 59.9
    assert not limit.allows()
    clock.seconds += 0.1
    assert [limit.allows(), limit.allows()] == [True, False]


def test_the_first_event_is_logged_and_later_ones_once_a_minute() -> None:
    """Each message reports how many events there were since the last message."""
    clock = HeldClock()
    limit = LogRateLimit(clock, 60.0)
    assert limit.to_log() == 1
    assert [limit.to_log(3), limit.to_log()] == [0, 0]
    clock.seconds += 59.9
    assert limit.to_log() == 0
    clock.seconds += 0.1
    assert limit.to_log() == 6
    assert limit.to_log() == 0
