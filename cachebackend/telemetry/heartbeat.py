"""When each periodic task last ran, so that the page can say that no worker runs.

The first ring cache in the settings stores the times, on two of its nodes.
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
#: Clocks differ by less; a time that is further in the future is not one at which a task ran.
MAX_AHEAD_SECONDS = 3600.0


def record_run(task: str) -> None:
    """Record that a periodic task runs now, in one round trip. Never raises; does nothing without a ring."""
    try:
        cache = _first_cache()
        if cache is not None:
            now = int(time.time() * 1000)
            cache.client.run(protocol.record_time(cache.client.context, _key(cache), task, now, KEEP_SECONDS))
    except Exception as error:
        raise_interrupt(error)
        logger.exception("the run of the periodic task %s could not be recorded", task)


def last_runs() -> dict[str, float]:
    """Return when each periodic task (``tick``, ``relay``) last ran, in seconds since 1970.

    A task that is not in it has not run for three months, or not since the nodes were emptied.

    Raises:
        RingCacheError: Neither of the two nodes answered, or no ring cache stores the times.
    """
    cache = _first_cache()
    if cache is None:
        message = "no ring cache stores when the periodic tasks ran"
        raise RingCacheError(message)
    [stored] = cache.client.run(protocol.read_counts(cache.client.context, [_key(cache)]))
    if isinstance(stored, RingCacheError):
        raise stored
    latest = (time.time() + MAX_AHEAD_SECONDS) * 1000
    return {
        task: milliseconds / 1000
        for task, milliseconds in stored.counts.items()
        if 0 < milliseconds <= latest
    }


def _first_cache() -> RingCache | None:
    return next((ring_cache(alias) for alias in ring_aliases()), None)


def _key(cache: RingCache) -> bytes:
    return f"ringcache:beats:{cache.key_prefix}".encode()
