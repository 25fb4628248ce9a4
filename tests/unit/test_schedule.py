"""The schedule of the periodic tasks."""

from __future__ import annotations

from cachebackend.schedule import beat_schedule


def test_each_task_has_its_interval_and_expires_with_it() -> None:
    """A run that could not start in time is left to the next one."""
    schedule = beat_schedule(0.5, 2.0, 3600.0)
    assert {name: entry["schedule"] for name, entry in schedule.items()} == {
        "ringcache.tick": 0.5, "ringcache.relay": 2.0, "ringcache.audit": 3600.0,
    }  # fmt: skip
    assert all(entry["options"] == {"expires": entry["schedule"]} for entry in schedule.values())
    assert schedule["ringcache.tick"]["task"] == "cachebackend.tasks.tick"


def test_audits_are_off_by_default() -> None:
    """The other two run every second."""
    assert {name: entry["schedule"] for name, entry in beat_schedule().items()} == {
        "ringcache.tick": 1.0, "ringcache.relay": 1.0,
    }  # fmt: skip
