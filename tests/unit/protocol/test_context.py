"""Frequent events are counted, and logged at a limited rate."""

from __future__ import annotations

import logging

import pytest

from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.errors import NodeUnavailableError
from cachebackend.options import RingOptions
from cachebackend.protocol import Context
from cachebackend.protocol.missed_deletes import MissedKeys
from cachebackend.ring import CLUSTER_SLOTS, ClusterRing, Ring
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


def test_a_missed_delete_is_recorded_for_the_owner_of_a_slot_that_moves_meanwhile(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table changes after the owner was looked up, and before the delete is recorded: it is not lost."""
    context.ring = ring = ClusterRing()
    ring.replace([0] * CLUSTER_SLOTS, ["a", "b"])
    add = context.missed.add

    def add_late(node: int, missed: MissedKeys) -> MissedKeys:
        ring.replace([1] * CLUSTER_SLOTS, ["a", "b"])
        context.missed.rehome(ring.owner, {(0, 1)}, {0, 1})
        return add(node, missed)

    monkeypatch.setattr(context.missed, "add", add_late)
    context.record_missed(0, [b"k"])
    assert context.missed.has_missed(1, b"k")
    assert context.counters.total().deletes_missed == 1


def test_a_key_whose_slot_no_server_has_has_no_holder(context: Context) -> None:
    """Keys of nodes that are not servers of a cluster have no such slots."""
    assert context.served_holder(0, b"key") == 0
    context.ring = ring = ClusterRing(0)
    assert context.served_holder(0, b"key") == 0
    ring.replace([1] * CLUSTER_SLOTS, ("a", "b"), frozenset({ring.slot_of(b"key")}))
    assert (context.served_holder(0, b"key"), context.served_holder(0, b"other")) == (None, 1)
    assert context.served_holder(7, b"key") == 7
