"""When each periodic task last ran, so that the page can say that no worker runs.

The first ring cache in the settings stores the times, on two of its nodes and by their clocks.
"""

from __future__ import annotations

import logging
import time

from cachebackend import protocol
from cachebackend.backend.aliases import ring_cache
from cachebackend.backend.cache import RingCache
from cachebackend.conf import ring_aliases
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt

__all__ = ["last_runs", "record_run"]

logger = logging.getLogger("cachebackend")
#: For how many seconds a time is stored: three months.
KEEP_SECONDS = 90 * 24 * 3600


def record_run(task: str) -> None:
    """Record that a periodic task runs now, in one round trip. Never raises; does nothing without a ring."""
    try:
        cache = _first_cache()
        if cache is not None:
            cache.client.run(
                protocol.telemetry.record_run(cache.client.context, _key(cache), task, KEEP_SECONDS)
            )
    except Exception as error:
        raise_interrupt(error)
        logger.exception("the run of the periodic task %s could not be recorded", task)


def last_runs() -> dict[str, float]:
    """Return when each periodic task (``tick``, ``relay``) last ran, in seconds since 1970 by this clock.

    Only how long ago that was is known, by the clock of a node.
    A task that is not in it has not run for three months, or not since the nodes were emptied.

    Raises:
        RingCacheError: Neither of the two nodes answered, or no ring cache stores the times.
    """
    cache = _first_cache()
    if cache is None:
        message = "no ring cache stores when the periodic tasks ran"
        raise RingCacheError(message)
    ages = cache.client.run(protocol.telemetry.read_run_ages(cache.client.context, _key(cache)))
    if isinstance(ages, RingCacheError):
        raise ages
    now = time.time()
    return {task: now - age for task, age in ages.items()}


def _first_cache() -> RingCache | None:
    return next((ring_cache(alias) for alias in ring_aliases()), None)


def _key(cache: RingCache) -> bytes:
    return f"ringcache:beats:{cache.key_prefix}".encode()
