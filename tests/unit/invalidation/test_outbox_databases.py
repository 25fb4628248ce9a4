"""Since when a database does not answer."""

from __future__ import annotations

import pytest

from cachebackend.invalidation import outbox_databases
from cachebackend.invalidation.outbox_databases import ask_databases, unanswered_since
from tests.unit.protocol.stepping import StillClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """Requests are answered in this thread, at a time that the test sets."""
    clock = StillClock()
    monkeypatch.setattr(outbox_databases, "SYSTEM_CLOCK", clock)
    monkeypatch.setattr(outbox_databases, "is_private", lambda connection: True)
    monkeypatch.setattr(outbox_databases, "_outages", {})
    return clock


def fail(using: str) -> None:
    message = "refused"
    raise OSError(message)


def test_an_outage_began_with_the_first_request_without_an_answer(clock: StillClock) -> None:
    """An answer ends it; so does a time in which nothing was asked: what was in between is not known."""
    assert unanswered_since("default") is None
    for seconds in (0, 30, 30):
        clock.at += seconds
        ask_databases(fail, 3.0, ["default"])
        assert unanswered_since("default") == 1000.0
    clock.at += 90
    ask_databases(fail, 3.0, ["default"])
    assert unanswered_since("default") == 1150.0
    ask_databases(str, 3.0, ["default"])
    assert unanswered_since("default") is None
