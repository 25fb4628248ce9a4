"""The versions of django-ringcache that run side by side."""

from __future__ import annotations

import pytest

from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.versions import MAX_SECONDS, version_faults, versions_text
from cachebackend.telemetry.processes import Process

NOW = 1_000_000.0


def process(version: str, started: float = 0.0, kind: str = "web") -> Process:
    return Process("p", kind, "h", 7, "gunicorn", version, started, {})


def test_two_versions_of_a_deploy_are_no_fault_until_it_lasts() -> None:
    """It began when the first process of the new version was started; later ones change nothing."""
    processes = [process("1.0"), process("1.0", 5.0), process("1.1", NOW), process("1.1", NOW + 600)]
    assert list(version_faults(processes, NOW + MAX_SECONDS)) == []
    [fault] = version_faults(processes, NOW + MAX_SECONDS + 1)
    assert (fault.kind, fault.since) == (FaultKind.VERSIONS_DIFFER, NOW)
    assert fault.message.endswith(": 1.0 (2 processes) and 1.1 (2 processes).")


@pytest.mark.parametrize("kind", ["command", "web"])
def test_a_command_of_an_older_version_is_no_fault(kind: str) -> None:
    """It may run for hours; any other process is restarted by a deploy."""
    processes = [process("1.0", kind=kind), process("1.1", 1.0, "worker")]
    assert len(list(version_faults(processes, NOW))) == (kind != "command")
    assert versions_text(processes).endswith(f": 1.0 ({kind} 7 on h) and 1.1 (worker 7 on h)")


def test_one_version_is_not_worth_a_sentence() -> None:
    """An empty site has none."""
    assert versions_text([process("1.0"), process("1.0")]) == versions_text([]) == ""
    assert "unknown (web 7 on h)" in versions_text([process("1.0"), process("")])
