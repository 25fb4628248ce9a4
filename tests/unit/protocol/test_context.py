"""Frequent events are counted, and logged at a limited rate."""

from __future__ import annotations

import logging

import pytest

from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.errors import NodeUnavailableError
from cachebackend.options import RingOptions
from cachebackend.protocol import Context
from cachebackend.ring import Ring
from tests.unit.protocol.stepping import StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def context(clock: StillClock) -> Context:
    options = RingOptions.read("redis://unused?name=a", {}, "CACHES")
    return Context(Ring([("a", 1.0)]), Codec("auto"), options, clock, Counters(Counts))


def test_refused_fills_are_logged_at_most_once_a_minute(
    context: Context, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With their number since the last message; every one is counted."""
    caplog.set_level(logging.INFO)
    for count in (1, 0, 3, 2):
        context.fills_refused(count)
    clock.at += 60
    context.fills_refused(1)
    logged = [(each.event, each.count) for each in caplog.records]  # type: ignore[attr-defined]
    assert logged == [("fills_refused", 1), ("fills_refused", 6)]
    assert context.counters.total().stale_sets_refused == 7


def test_one_event_does_not_silence_another(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    """An unreadable record is logged while a node fails."""
    error = NodeUnavailableError("node 'a' is down")
    for event in ("node_failed", "node_failed", "record_undecodable"):
        context.log_limited(event, "%s; taken for a miss", error)
    logged = [(each.event, each.error) for each in caplog.records]  # type: ignore[attr-defined]
    assert logged == [("node_failed", str(error)), ("record_undecodable", str(error))]
