"""The schedule of the periodic tasks, for Celery beat. Settings can call it: it imports no tasks."""

from __future__ import annotations

from typing import Any

__all__ = ["beat_schedule"]


def beat_schedule(
    flush_interval: float = 1.0, relay_interval: float = 1.0, audit_interval: float | None = None
) -> dict[str, dict[str, Any]]:
    """Return the entries for ``CELERY_BEAT_SCHEDULE``.

    Args:
        flush_interval: Seconds between two looks for queued writes: that of ``WRITE_BEHIND``,
            which cannot be read from here while the settings are.
        relay_interval: Seconds between two looks for invalidations that were left undone.
        audit_interval: Seconds between two audits of what is cached; None: no audits.
    """
    intervals = {"tick": flush_interval, "relay": relay_interval, "audit": audit_interval}
    return {
        f"ringcache.{name}": {
            "task": f"cachebackend.tasks.{name}",
            "schedule": interval,
            # One that could not start within its interval is of no use: the next does its work
            "options": {"expires": interval},
        }
        for name, interval in intervals.items()
        if interval is not None
    }
