"""The schedule of the periodic tasks, for Celery beat. It imports no tasks, so settings can call it."""

from __future__ import annotations

from typing import Any

__all__ = ["beat_schedule"]


def beat_schedule(
    flush_interval: float = 1.0, relay_interval: float = 1.0, audit_interval: float | None = None
) -> dict[str, dict[str, Any]]:
    """Return the entries for ``CELERY_BEAT_SCHEDULE``.

    Args:
        flush_interval: Seconds between two runs of ``tick``, which drains queued writes. Give the
            value of ``WRITE_BEHIND``: this function cannot read it while settings are loaded.
        relay_interval: Seconds between two runs of ``relay``, which retries pending deletes.
        audit_interval: Seconds between two audits of cached rows; None: no audits.
    """
    intervals = {"tick": flush_interval, "relay": relay_interval, "audit": audit_interval}
    return {
        f"ringcache.{name}": {
            "task": f"cachebackend.tasks.{name}",
            "schedule": interval,
            # A task that could not start within its interval is superfluous: the next does its work
            "options": {"expires": interval},
        }
        for name, interval in intervals.items()
        if interval is not None
    }
