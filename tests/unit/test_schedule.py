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


def test_drains_and_periodic_tasks_have_queues_of_their_own() -> None:
    """Behind drains that wait for a lock, ``relay`` would send no delete and ``tick`` start no drain."""
    queues = {name.rpartition(".")[2]: entry["queue"] for name, entry in task_routes("a", "b").items()}
    assert queues == {"relay": "b", "tick": "b", "drain": "a", "retry_waiting": "a"}
