"""When the breaker opens, when it lets a probe through, and when it closes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.node.breaker import CLAIM_SECONDS, EJECTED, REPLAYING, UP, Breaker

ERROR = NodeUnavailableError("node 'a' is not reachable")


@dataclass
class HeldClock:
    """A clock that a test moves."""

    at: float = 100.0

    def now(self) -> float:
        return 1_000_000 + self.at

    def monotonic(self) -> float:
        return self.at

    def random(self) -> float:
        return 0.0

    def token(self) -> bytes:
        return b"." * 16


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def breaker(clock: HeldClock) -> Breaker:
    return Breaker("a", clock)


def test_three_failures_in_a_row_eject(breaker: Breaker) -> None:
    """A reply in between resets the count."""
    breaker.failed(ERROR)
    breaker.failed(ERROR)
    breaker.succeeded()
    breaker.failed(ERROR)
    breaker.failed(ERROR)
    assert not breaker.is_open
    breaker.failed(ERROR)
    assert breaker.is_open
    state = breaker.state
    assert (state.state, state.since, state.ejections) == (EJECTED, 1_000_100.0, 1)
    assert "not reachable" in state.error


def test_a_refusal_ejects_at_once(breaker: Breaker) -> None:
    """No server listens at the endpoint."""
    breaker.failed(ERROR, at_once=True)
    assert breaker.is_open


def test_one_probe_runs_at_a_time_and_waits_double(breaker: Breaker, clock: HeldClock) -> None:
    """The waits are one second, two, four, and at most ten."""
    breaker.failed(ERROR, at_once=True)
    waits = []
    for _ in range(8):
        begun = clock.at
        while not breaker.begin_probe():
            clock.at += 0.5
        assert not breaker.begin_probe()
        waits.append(clock.at - begun)
        breaker.probe_failed(ERROR)
    assert waits == [1, 2, 4, 8, 10, 10, 10, 10]
    assert breaker.state.ejections == 1


def test_the_breaker_closes_only_after_the_replay(breaker: Breaker, clock: HeldClock) -> None:
    """While missed deletes are replayed, the node gets no commands."""
    breaker.failed(ERROR, at_once=True)
    clock.at += 1
    assert breaker.begin_probe()
    breaker.begin_replay()
    assert breaker.is_open
    assert breaker.state.state == REPLAYING
    breaker.close()
    assert not breaker.is_open
    assert (breaker.state.state, breaker.state.error) == (UP, "")


def test_a_node_that_missed_a_delete_is_probed_early(breaker: Breaker) -> None:
    """Although it is not ejected. If the probe fails, it is."""
    assert not breaker.begin_probe()
    assert breaker.begin_probe(early=True)
    breaker.probe_failed(ERROR)
    assert breaker.is_open


def test_an_ejected_node_is_not_probed_early(breaker: Breaker) -> None:
    """Another missed delete does not make its probes more frequent."""
    breaker.failed(ERROR, at_once=True)
    assert not breaker.begin_probe(early=True)


def test_a_writer_can_wait_for_a_probe_that_is_not_due(breaker: Breaker) -> None:
    """It learns whether the node serves again; a probe that does not end in time counts as failed."""
    breaker.failed(ERROR, at_once=True)
    assert breaker.begin_probe(at_once=True)
    assert not breaker.begin_probe(at_once=True)
    assert not breaker.wait_for_probe(0.0)
    breaker.probe_failed(ERROR)
    assert not breaker.wait_for_probe(60.0)
    assert breaker.begin_probe(at_once=True)
    breaker.close()
    assert breaker.wait_for_probe(60.0)


def test_a_forked_child_does_not_wait_for_its_parents_probe(breaker: Breaker, clock: HeldClock) -> None:
    """The child does not have the thread that runs the probe."""
    breaker.failed(ERROR, at_once=True)
    clock.at += 1
    assert breaker.begin_probe()
    breaker.after_fork()
    assert breaker.begin_probe()


def test_ejection_and_return_are_logged_as_events(
    breaker: Breaker, clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With the node and the error as fields: one event when it is ejected, one when it is back."""
    for _ in range(5):
        breaker.failed(ERROR, at_once=True)
    clock.at += 60
    assert breaker.begin_probe()
    breaker.probe_failed(ERROR)
    breaker.close()
    events = [(each.event, each.node) for each in caplog.records]  # type: ignore[attr-defined]
    assert events == [("node_ejected", "a"), ("node_returned", "a")]
    assert caplog.records[0].error == str(ERROR)  # type: ignore[attr-defined]


def test_a_claim_whose_probe_never_begins_is_lost(breaker: Breaker, clock: HeldClock) -> None:
    """Its caller was interrupted before it could start the probe; the next caller gets the claim."""
    breaker.failed(ERROR, at_once=True)
    clock.at += 2
    assert breaker.begin_probe()
    clock.at += CLAIM_SECONDS - 1
    assert not breaker.begin_probe()
    clock.at += 1
    assert breaker.begin_probe()


def test_a_probe_that_has_begun_may_take_long(breaker: Breaker, clock: HeldClock) -> None:
    """It replays many missed deletes, perhaps; no second probe runs beside it."""
    breaker.failed(ERROR, at_once=True)
    clock.at += 2
    assert breaker.begin_probe()
    breaker.probe_begun()
    clock.at += 1000
    assert not breaker.begin_probe()


def test_the_probe_logs_that_a_node_is_held(breaker: Breaker, caplog: pytest.LogCaptureFixture) -> None:
    """Once. The caller of ``hold`` has locks that a handler of the message may need, if it uses the cache."""
    assert breaker.hold(ERROR)
    assert caplog.messages == []
    breaker.probe_begun()
    [message] = caplog.messages
    assert str(ERROR) in message
    breaker.probe_failed(ERROR)
    breaker.probe_begun()
    assert caplog.messages == [message]


def test_a_held_node_is_probed_at_once(breaker: Breaker) -> None:
    """It answers, but must get missed deletes before it serves reads; a probe that runs already is enough."""
    assert breaker.hold(ERROR)
    assert (breaker.is_open, breaker.state.state, breaker.state.error) == (True, EJECTED, str(ERROR))
    assert not breaker.hold(ERROR)
    breaker.begin_replay()
    assert breaker.close()
    assert (breaker.is_open, breaker.state.ejections) == (False, 1)
