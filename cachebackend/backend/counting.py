"""Counters of all processes, folded into minutes that the ring itself keeps for a day.

Each process adds what it counted since the last time: every few seconds at the end of a
request, and at its own end. So the sum over the minutes is what all processes counted.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from typing import Any

from django.core.signals import request_finished

from cachebackend import protocol
from cachebackend.backend.aliases import ring_cache
from cachebackend.conf import ring_aliases
from cachebackend.errors import RingCacheError
from cachebackend.stats import Counts

__all__ = ["connect", "counts_by_minute", "counts_in_all", "fold_all", "fold_counts", "fold_sometimes"]

logger = logging.getLogger("cachebackend")
#: Seconds between two folds of a process that serves requests.
EVERY_SECONDS = 5.0
MINUTE = 60
#: In the place of a minute: what was counted since the ring was new; kept while anybody counts.
ALL = "all"
KEEP_ALL_SECONDS = 90 * 24 * 3600
#: Loads are counted in seconds, and kept in whole microseconds.
_MICROSECONDS = 1_000_000

_lock = threading.Lock()
_folded_at = 0.0


def fold_counts(alias: str) -> None:
    """Add what this process counted since the last time to the present minute."""
    client = ring_cache(alias).client
    with _lock:
        counted = client.stats.take_new()
        if not counted:
            return
        key = _key(alias, int(time.time()) // MINUTE)
        counts = {
            name: round(count * _MICROSECONDS) if isinstance(count, float) else count
            for name, count in counted.items()
        }
        if not client.run(protocol.add_counts(client.context, key, counts)):
            client.stats.put_back(counted)
            return
        client.run(protocol.add_counts(client.context, _key(alias, ALL), counts, KEEP_ALL_SECONDS))


def fold_all(**_: Any) -> None:
    """Fold the counts of every alias; never raises, for nobody waits for them."""
    for alias in ring_aliases():
        try:
            fold_counts(alias)
        except Exception:
            logger.exception("the counts of %r could not be folded", alias)


def counts_by_minute(alias: str, minutes: int) -> dict[int, Counts]:
    """Return the counts of all processes for each of the last minutes, the oldest first.

    A minute whose node is dead is 0.

    Args:
        alias: The cache alias.
        minutes: How many, the present one included; at most a day's are kept.

    Returns:
        Counts by minute since 1970.
    """
    client = ring_cache(alias).client
    now = int(time.time()) // MINUTE
    wanted = range(now - minutes + 1, now + 1)
    found = client.run(protocol.counts_of(client.context, [_key(alias, minute) for minute in wanted]))
    told = [{} if isinstance(each, RingCacheError) else each for each in found]
    return {minute: _counts(each) for minute, each in zip(wanted, told, strict=True)}


def counts_in_all(alias: str) -> Counts:
    """Return what all processes have counted; it begins anew when the node that keeps it does.

    Raises:
        NodeUnavailableError: That node did not answer.
    """
    client = ring_cache(alias).client
    [found] = client.run(protocol.counts_of(client.context, [_key(alias, ALL)]))
    if isinstance(found, RingCacheError):
        raise found
    return _counts(found)


def _counts(kept: dict[str, int]) -> Counts:
    counts = Counts()
    for name, count in kept.items():
        if hasattr(counts, name):
            is_float = isinstance(getattr(counts, name), float)
            setattr(counts, name, count / _MICROSECONDS if is_float else count)
    return counts


def _key(alias: str, minute: int | str) -> bytes:
    """Return the key of a minute, or of ALL; no alias' own keys look like it."""
    return f"ringcache:counts:{alias}:{minute}".encode()


def fold_sometimes(**_: Any) -> None:
    """Fold, unless this process has just done so."""
    global _folded_at  # noqa: PLW0603  # one time for the whole process
    now = time.monotonic()
    if now - _folded_at >= EVERY_SECONDS:
        _folded_at = now
        fold_all()


def connect() -> None:
    """Fold at the end of requests and of the process."""
    request_finished.connect(fold_sometimes, dispatch_uid="cachebackend.counting")
    atexit.register(fold_all)
