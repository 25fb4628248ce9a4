"""The schedule of the periodic tasks, and the queue of the drains."""

from __future__ import annotations

from cachebackend.schedule import beat_schedule, task_routes


def test_each_task_has_its_interval() -> None:
    """No task expires: that would compare the clocks of two machines."""
    schedule = beat_schedule(0.5, 2.0, 3600.0)
    assert {name: entry["schedule"] for name, entry in schedule.items()} == {
        "ringcache.tick": 0.5, "ringcache.relay": 2.0, "ringcache.audit": 3600.0,
    }  # fmt: skip
    assert not any("options" in entry for entry in schedule.values())
    assert schedule["ringcache.tick"]["task"] == "cachebackend.tasks.tick"


def test_audits_are_off_by_default() -> None:
    """The other two run every second."""
    assert {name: entry["schedule"] for name, entry in beat_schedule().items()} == {
        "ringcache.tick": 1.0, "ringcache.relay": 1.0,
    }  # fmt: skip


def test_write_behind_has_a_queue_of_its_own() -> None:
    """The task that finds the partitions too: behind the site's tasks it would start no drain."""
    assert task_routes("writes") == {
        f"cachebackend.tasks.{name}": {"queue": "writes"} for name in ("tick", "drain", "retry_waiting")
    }
