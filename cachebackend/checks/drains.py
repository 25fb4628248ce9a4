"""Checks of what drains need: queue nodes, tables, a schedule, workers, and connections that are closed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning  # noqa: A004  # Django's name
from django.db import connections

from cachebackend.checks.migrated import is_empty, missing_migrations
from cachebackend.conf import beat_entries, ring_aliases, write_behind_options
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.options import WriteBehindOptions
from cachebackend.telemetry.heartbeat import last_runs
from cachebackend.writebehind import databases as write_behind_databases
from cachebackend.writebehind.queue import behind_models

__all__ = [
    "check_write_behind_connections",
    "check_write_behind_migrations",
    "check_write_behind_nodes",
    "check_write_behind_ring",
    "check_write_behind_schedule",
    "check_write_behind_workers",
]

#: The task that finds the partitions to drain.
_TICK = "cachebackend.tasks.tick"
#: Seconds. No deploy stops the workers for longer.
MAX_TICK_AGE = 3600.0


def check_write_behind_nodes(**_: Any) -> list[CheckMessage]:
    """ringcache.W006: a model has a ``WriteBehindManager``, and ``WRITE_BEHIND`` names no queue node."""
    options = _options()
    if options is None or options.is_on or not behind_models():
        return []
    return [
        Warning(
            f"WRITE_BEHIND['nodes'] names no node, so every write by {_managers()} raises.",
            hint="Name the queue nodes.",
            id="ringcache.W006",
        )
    ]


def check_write_behind_schedule(**_: Any) -> list[CheckMessage]:
    """ringcache.W007: no setting schedules the task that drains write-behind."""
    if not _is_used() or beat_entries("tick"):
        return []
    return [
        Warning(
            f"CELERY_BEAT_SCHEDULE has no task {_TICK!r}, so the writes by {_managers()} are never drained.",
            hint="Set CELERY_BEAT_SCHEDULE to cachebackend.schedule.beat_schedule(). Silence this check if "
            "the schedule is elsewhere, in the Celery app or a database.",
            id="ringcache.W007",
        )
    ]


def check_write_behind_ring(**_: Any) -> list[CheckMessage]:
    """ringcache.W009: no cache alias is a ring cache, so nothing shows that no worker drains write-behind."""
    if not _is_used() or ring_aliases():
        return []
    return [
        Warning(
            "No alias in CACHES is a ring cache, so nothing stores when the periodic tasks last ran.",
            hint="Give an alias the BACKEND 'cachebackend.RingCache', or watch the workers in another way.",
            id="ringcache.W009",
        )
    ]


def check_write_behind_connections(**_: Any) -> list[CheckMessage]:
    """ringcache.W010: an ASGI project keeps the connections to a database that write-behind reads."""
    is_asgi = getattr(settings, "ASGI_APPLICATION", None) and not settings.WSGI_APPLICATION
    if not _is_used() or not is_asgi:
        return []
    return [
        Warning(
            f"DATABASES[{using!r}]['CONN_MAX_AGE'] is not 0 in an ASGI project: behind.aget() leaves a "
            "connection open for each thread.",
            hint="Set CONN_MAX_AGE to 0, and use the pool of the database's OPTIONS.",
            id="ringcache.W010",
        )
        for using in write_behind_databases()
        if connections[using].settings_dict.get("CONN_MAX_AGE") != 0
    ]


def check_write_behind_migrations(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """ringcache.W012: a database that is drained to lacks migrations of ``cachebackend``."""
    return [
        Warning(  # not an error: `migrate` runs the checks first, and would stop
            f"Database {using!r} lacks the migrations {', '.join(missing)} of cachebackend; no drain works.",
            hint=f"Run manage.py migrate cachebackend --database {using}.",
            id="ringcache.W012",
        )
        for using in write_behind_databases()
        if _is_used() and using in (databases or ())
        if (missing := missing_migrations(using))
    ]


def check_write_behind_workers(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """ringcache.W008: no worker has looked for writes to drain within an hour."""
    if not (_is_used() and databases and ring_aliases()):
        return []
    try:
        last = last_runs().get("tick")
    except RingCacheError as error:
        text = f"It is not known whether a worker drains write-behind: {error}."
    else:
        if last is not None and time.time() - last <= MAX_TICK_AGE:
            return []
        if last is None and all(map(is_empty, databases)):
            return []  # the first ``migrate`` may be running, before which no worker can run
        text = f"No worker has run {_TICK!r} {'ever' if last is None else 'within an hour'}."
    return [Warning(text, hint="Start Celery beat, and a worker with -Q drains.", id="ringcache.W008")]


def _options() -> WriteBehindOptions | None:
    try:
        return write_behind_options()
    except ConfigurationError:  # ringcache.E002 reports it
        return None


def _is_used() -> bool:
    """Return whether a model is written behind, and nodes queue its writes."""
    options = _options()
    return bool(behind_models() and options is not None and options.is_on)


def _managers() -> str:
    return ", ".join(sorted(model._meta.label for model in behind_models()))
