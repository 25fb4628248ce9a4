"""The versions of django-ringcache that run side by side: in a deploy for minutes, later that is a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.formatting import moment
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.processes import Process

__all__ = ["version_faults", "versions_text"]

#: Seconds for which several versions may run before that is a fault: longer than a rolling deploy takes.
MAX_SECONDS = 900.0
#: A command that began before a deploy may run for hours.
_NOT_DEPLOYED = frozenset({"command"})


def versions_text(processes: Sequence[Process]) -> str:
    """Return which versions run side by side, and since when; empty if there is one only."""
    by_version = _by_version(processes)
    if len(by_version) < 2:
        return ""
    known = " and ".join(f"{version or 'unknown'} ({_named(own)})" for version, own in by_version.items())
    return f"Versions of django-ringcache run side by side since {moment(_since(by_version))}: {known}"


def version_faults(processes: Sequence[Process], now: float) -> Iterator[Fault]:
    """Yield the fault of versions that have run side by side for too long.

    Args:
        processes: The processes of the site.
        now: The time, in seconds since 1970.
    """
    deployed = [process for process in processes if process.kinds - _NOT_DEPLOYED]
    by_version = _by_version(deployed)
    if len(by_version) > 1 and now - (since := _since(by_version)) > MAX_SECONDS:
        yield Fault(FaultKind.VERSIONS_DIFFER, f"{versions_text(deployed)}.", since)


def _by_version(processes: Sequence[Process]) -> dict[str, list[Process]]:
    """Return the processes of each version, the most frequent one first."""
    found: dict[str, list[Process]] = {}
    for process in processes:
        found.setdefault(process.version, []).append(process)
    return dict(sorted(found.items(), key=lambda each: -len(each[1])))


def _since(by_version: dict[str, list[Process]]) -> float:
    """Return when the first process of the newest version was started."""
    return max(min(process.started for process in own) for own in by_version.values())


def _named(processes: Sequence[Process]) -> str:
    return processes[0].label if len(processes) == 1 else f"{len(processes)} processes"
