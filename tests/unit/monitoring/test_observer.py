"""The states of which the timeline has the changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachebackend.monitoring import observer
from cachebackend.monitoring.observer import deploy_states, observe, settings_states
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
    [state] = deploy_states(web)
    assert (state.subject, state.value) == ("start of web processes", "1000")
    assert not state.differs("1000", "1003")
    assert state.differs("1000", "5000")
    assert state.differs("of another version", "5000")
    assert list(deploy_states([*web, replace(ONE, started=3000.0)])) == []
    assert [each.subject for each in deploy_states([replace(ONE, kind="worker+relay")])] == [
        "start of worker processes"
    ]


def test_a_process_looks_once_in_a_while_and_never_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a look is logged."""
    looks = []

    def fail() -> None:
        looks.append(1)
        raise ValueError

    monkeypatch.setattr(observer, "_next_look", 0.0)
    monkeypatch.setattr(observer, "read_processes", fail)
    observe()
    observe()
    assert (len(looks), len(caplog.records)) == (1, 1)
