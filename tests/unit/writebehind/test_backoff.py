"""A database that is down is asked less and less often."""

from __future__ import annotations

import logging
import signal
from unittest.mock import Mock

import pytest
from django.db import OperationalError

from cachebackend.writebehind import backoff as backoff_module
from cachebackend.writebehind.backoff import Backoff, is_unreachable
from tests.unit.protocol.stepping import StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def backoff(clock: StillClock) -> Backoff:
    return Backoff(clock)


def test_a_database_that_answers_is_asked_at_once(backoff: Backoff) -> None:
    """Even while another database does not."""
    backoff.failed("other", OSError())
    assert backoff.wait_seconds("default") == 0.0


def test_each_failure_doubles_the_wait_up_to_half_a_minute(backoff: Backoff, clock: StillClock) -> None:
    """From one second."""
    waits = []
    for _ in range(7):
        backoff.failed("default", OSError())
        waits.append(backoff.wait_seconds("default"))
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    clock.at += 29
    assert backoff.wait_seconds("default") == 1.0
    clock.at += 5
    assert backoff.wait_seconds("default") == 0.0


def test_an_outage_is_forgotten_that_was_not_tried_again(backoff: Backoff, clock: StillClock) -> None:
    """Other processes may have drained since; the next failure begins an outage of its own."""
    backoff.failed("default", OSError())
    clock.at += 60
    assert [name for name, *_ in backoff.waits()] == ["default"]
    clock.at += 60
    assert backoff.waits() == []
    backoff.failed("default", OSError())
    [(_, seconds, since)] = backoff.waits()
    assert (seconds, since) == (1.0, clock.now())


def test_an_answer_resets_it_and_both_ends_are_logged_once(
    backoff: Backoff, caplog: pytest.LogCaptureFixture
) -> None:
    """With the database and the error."""
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        backoff.failed("default", OSError("refused"))
    backoff.answered("default")
    backoff.answered("default")
    events = [record.event for record in caplog.records]  # type: ignore[attr-defined]  # our own
    assert events == ["database_away", "database_returned"]
    assert "refused" in caplog.text
    backoff.failed("default", OSError())
    assert backoff.wait_seconds("default") == 1.0


def test_a_time_limit_says_nothing_about_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose class is a database error, and which has broken the connection."""

    def limit(_: int, __: object) -> None:
        raise OperationalError("10 seconds are over")

    monkeypatch.setattr(backoff_module, "connections", {"default": Mock(is_usable=lambda: False)})
    before = signal.signal(signal.SIGUSR1, limit)
    try:
        with pytest.raises(OperationalError) as caught:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not is_unreachable("default", caught.value)
    assert is_unreachable("default", OperationalError("the server closed the connection"))
