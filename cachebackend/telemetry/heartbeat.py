"""When the periodic tasks last ran: what tells a page that no worker is there.

The first ring cache of the settings keeps it, on two nodes, for whichever process asks.
"""

from __future__ import annotations

import logging
import time

from cachebackend import protocol
from cachebackend.backend.aliases import ring_cache
from cachebackend.backend.cache import RingCache
from cachebackend.conf import ring_aliases
from cachebackend.errors import RingCacheError

__all__ = ["last_runs", "record_run"]

logger = logging.getLogger("cachebackend")
KEEP_SECONDS = 90 * 24 * 3600
#: What is further ahead than clocks differ is no time that a task ran at.
_AHEAD_SECONDS = 3600.0


def record_run(task: str) -> None:
    """Note that a periodic task runs now: one round trip; never raises, and does nothing without a ring."""
    try:
        for cache in _keepers():
            at = int(time.time() * 1000)
            cache.client.run(protocol.record_time(cache.client.context, _key(cache), task, at, KEEP_SECONDS))
    except Exception:
        logger.exception("it could not be noted that %s ran", task)


def last_runs() -> dict[str, float]:
    """Return when each periodic task (``tick``, ``relay``) last ran, in seconds since 1970.

    One that is not named has not run within three months, or since the nodes were emptied.

    Raises:
        RingCacheError: Neither of the nodes that keep it answered.
    """
    found_runs: dict[str, float] = {}
    latest = (time.time() + _AHEAD_SECONDS) * 1000
    for cache in _keepers():
        [found] = cache.client.run(protocol.read_counts(cache.client.context, [_key(cache)]))
        if isinstance(found, RingCacheError):
            raise found
        found_runs.update({task: at / 1000 for task, at in found.items() if 0 < at <= latest})
    return found_runs


def _keepers() -> list[RingCache]:
    return [ring_cache(alias) for alias in ring_aliases()[:1]]


def _key(cache: RingCache) -> bytes:
    return f"ringcache:last_runs:{cache.key_prefix}".encode()
