"""The states of which the timeline has the changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachebackend.clock import SYSTEM_CLOCK, RateLimit
from cachebackend.monitoring import observer
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.observer import deploy_states, fault_states, observe, settings_states
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.agreed_settings import AgreedSetting
from cachebackend.telemetry.processes import Process

PATH = "CACHES['default']['VERSION']"
ONE = Process("a", "web", "h", 1, "gunicorn", "1.0", 1000.0, {PATH: AgreedSetting("d1", "1")})


def test_the_settings_and_the_version_of_most_processes_are_states() -> None:
    """One process that differs is a fault, and no event."""
    two = replace(ONE, id="b")
    odd = replace(ONE, id="c", version="2.0", settings={PATH: AgreedSetting("d2", "2")})
    states = {state.subject: state for state in settings_states([odd, ONE, two])}
    assert (states[f"setting {PATH}"].value, states["version"].value) == ("d1", "1.0")
    assert states[f"setting {PATH}"].text == f"{PATH} is 1 in most processes now."
    assert list(settings_states([])) == []


def test_processes_that_start_together_are_a_deploy() -> None:
    """Not those that a server renews one by one; and not the same start by another clock."""
    web = [replace(ONE, started=start) for start in (1000.0, 1010.0, 1100.0)]
    [state] = deploy_states(web, 1200.0)
    assert (state.subject, state.value) == ("start of web processes", "1000")
    assert not state.differs("1000", "1003")
    assert state.differs("1000", "5000")
    assert state.differs("of another version", "5000")
    assert list(deploy_states([*web, replace(ONE, started=3000.0)], 3000.0)) == []
    assert [each.subject for each in deploy_states([replace(ONE, kind="worker+relay")], 1000.0)] == [
        "start of worker processes"
    ]


def test_processes_that_are_left_were_not_started_again() -> None:
    """An older one ended: the others have run since long before."""
    assert list(deploy_states([ONE], 1000.0 + 650)) == []


@pytest.mark.parametrize(
    ("uptime", "text"),
    [
        ("3", "Node a of 'default' was restarted."),
        ("", "Node a of 'default' was restarted."),
        ("7200", "Another server answers as node a of 'default', which has run for 2 h: a failover."),
    ],
)
def test_a_failover_is_not_taken_for_a_restart(uptime: str, text: str) -> None:
    """Another run of a server answers in both cases; one that was promoted runs since long before."""
    assert observer._start_text("a of 'default'", {"uptime_in_seconds": uptime}) == text


@pytest.fixture
def no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every database answered at the last look."""
    monkeypatch.setattr(observer, "_outage", None)


def values(faults: list[Fault]) -> dict[str, str]:
    return {state.subject: state.value for state in fault_states(faults)}


@pytest.mark.usefixtures("no_outage")
def test_faults_are_states() -> None:
    """A consequence too; what a queue node holds that does not answer is not known."""
    below = Fault(FaultKind.WRITES_PARKED, "3 writes are parked.")
    cause = Fault(FaultKind.NO_BEAT, "no beat", consequences=(below,))
    found = {state.subject: state for state in fault_states([cause])}
    assert (found["fault no-beat"].value, found["fault no-beat"].text) == ("yes", "no beat")
    assert found["fault writes-parked"].text == "3 writes are parked."
    assert (found["fault no-worker"].value, found["fault no-worker"].text) == ("no", "Over: no-worker.")
    assert values([cause]) == values([cause])
    down = Fault(FaultKind.QUEUE_NODE_DOWN, "queue-a", consequences=(cause,))
    assert set(values([down])) == {"outage of a database", "fault no-beat"}


@pytest.mark.usefixtures("no_outage")
def test_the_outage_of_a_database_is_stored_when_it_is_over() -> None:
    """It stores no event while it does not answer; several processes see the outage a little apart."""
    assert values([])["outage of a database"] == "0"
    down = Fault(FaultKind.DATABASE_DOWN, "PostgreSQL does not answer", 5000.0)
    assert list(fault_states([down])) == []
    assert list(fault_states([replace(down, since=5010.0)])) == []
    state, *_ = fault_states([])
    assert state.text.startswith("Over: PostgreSQL does not answer, from ")
    assert (state.value, state.differs("0", "5000"), state.differs("5003", "5000")) == ("5000", True, False)
    assert values([])["outage of a database"] == "0"
    assert not state.differs("5000", "0")


@pytest.mark.usefixtures("no_outage")
def test_nothing_is_stored_while_a_database_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a page does not wait for it again. The nodes are not asked either."""
    monkeypatch.setattr(observer, "_looks", RateLimit(SYSTEM_CLOCK, observer.INTERVAL))
    monkeypatch.setattr(observer, "read_processes", lambda: pytest.fail("it is asked"))
    observe([Fault(FaultKind.DATABASE_DOWN, "PostgreSQL does not answer", 5000.0)])


def test_a_process_looks_once_in_a_while_and_never_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a look is logged."""
    looks = []

    def fail() -> None:
        looks.append(1)
        raise ValueError

    monkeypatch.setattr(observer, "_looks", RateLimit(SYSTEM_CLOCK, observer.INTERVAL))
    monkeypatch.setattr(observer, "read_processes", fail)
    observe()
    observe()
    assert (len(looks), len(caplog.records)) == (1, 1)
