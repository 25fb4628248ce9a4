"""The schedule of the periodic tasks, and the queues of the tasks, for Celery.

It imports no tasks, so settings can call its functions.
"""

from __future__ import annotations

from typing import Any

from cachebackend.conf import DRAIN_QUEUE, PERIODIC_QUEUE

__all__ = ["DRAIN_QUEUE", "PERIODIC_QUEUE", "beat_schedule", "task_routes"]


def beat_schedule(
    flush_interval: float = 1.0, relay_interval: float = 1.0, audit_interval: float | None = None
) -> dict[str, dict[str, Any]]:
    """Return the entries for ``CELERY_BEAT_SCHEDULE``.

    No entry has ``expires``: it would compare the clock of beat with that of a worker, and a
    difference of one interval would discard every task. A task that runs late does no harm.

    Args:
        flush_interval: Seconds between two runs of ``tick``, which drains queued writes. Give the
            value of ``WRITE_BEHIND``: this function cannot read it while settings are loaded.
        relay_interval: Seconds between two runs of ``relay``, which retries pending deletes.
        audit_interval: Seconds between two audits of cached rows; None: no audits.
    """
    intervals = {"tick": flush_interval, "relay": relay_interval, "audit": audit_interval}
    return {
        f"ringcache.{name}": {"task": f"cachebackend.tasks.{name}", "schedule": interval}
        for name, interval in intervals.items()
        if interval is not None
    }


def task_routes(queue: str = DRAIN_QUEUE, periodic: str = PERIODIC_QUEUE) -> dict[str, dict[str, str]]:
    """Return the entries for ``CELERY_TASK_ROUTES`` that give drains and periodic tasks their own queues.

    The site's tasks then do not delay the drains, and neither they nor long drains delay ``relay`` and
    ``tick``. Each queue needs a worker: ``celery worker -Q drains`` and ``celery worker -Q periodic``.

    Args:
        queue: The name of the queue for drains.
        periodic: The name of the queue for ``relay`` and ``tick``, which take a moment each.
    """
    queues = {"relay": periodic, "tick": periodic, "drain": queue, "retry_waiting": queue}
    return {f"cachebackend.tasks.{name}": {"queue": each} for name, each in queues.items()}
