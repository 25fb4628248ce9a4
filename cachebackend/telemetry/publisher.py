"""Counters of all processes, folded into minutes that the nodes themselves keep for a day.

Each process adds what it counted since the last time: every few seconds, by a thread of its
own that begins with its first count, and at its end (``farewell``). So the sum over the
minutes is what all processes counted; one that is killed takes its last seconds with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cachebackend import protocol
from cachebackend.backend.aliases import ring_cache
from cachebackend.client import QueueClient, RingClient
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.conf import ring_aliases, write_behind_options
from cachebackend.counters import Counters, Counts, DrainCounts
from cachebackend.errors import ConfigurationError, NodeReplyError, RingCacheError
from cachebackend.registry import queue_client

__all__ = [
    "counts_by_minute",
    "counts_in_all",
    "drains_by_minute",
    "drains_in_all",
    "publish_all",
    "publish_counts",
]

logger = logging.getLogger("cachebackend")
MINUTE = 60
#: For how long the counts of a minute are kept: a day, and some.
KEEP_MINUTE_SECONDS = 25 * 3600
#: In the place of a minute: what was counted since the node was new; kept while anybody counts.
ALL = "all"
KEEP_ALL_SECONDS = 90 * 24 * 3600

C = TypeVar("C", Counts, DrainCounts)
_publish_failures = LogRateLimit(SYSTEM_CLOCK)


@dataclass(frozen=True, slots=True)
class _Kept(Generic[C]):
    """The counts of one client, and where its nodes keep them.

    The minutes stand on two nodes, so a dead one hides none. What was counted in all stands on
    one: it must never fall and rise again, as the higher of two copies could, for whoever reads
    it takes a fall for a new beginning. So each has a ledger of its own.
    """

    client: RingClient | QueueClient
    counters: Counters[C]
    kind: type[C]
    stem: str

    def fold(self) -> None:
        """Add what this process counted since the last time to the present minute, and to all."""
        self._add(str(int(time.time()) // MINUTE), "minutes", KEEP_MINUTE_SECONDS)
        self._add(ALL, ALL, KEEP_ALL_SECONDS, copies=1)

    def _add(self, name: str, ledger: str, keep_seconds: int, **copies: int) -> None:
        counts = self.counters.take_new(ledger)
        if not counts:
            return
        adding = protocol.add_counts(self.client.context, self._key(name), counts, keep_seconds, **copies)
        refused = self.client.run(adding)
        if refused is not None:
            self.counters.put_back(ledger, counts)
            if (
                isinstance(refused, NodeReplyError) and _publish_failures.to_log()
            ):  # the others, a breaker tells
                extra = {"event": "fold_refused", "error": str(refused)}
                logger.warning("%s; counts of %s wait to be folded", refused, self.stem, extra=extra)

    def by_minute(self, minutes: int) -> dict[int, C | None]:
        """Return the counts of each of the last minutes, the oldest first; None where no node tells them."""
        now = int(time.time()) // MINUTE
        wanted = range(now - minutes + 1, now + 1)
        keys = [self._key(str(minute)) for minute in wanted]
        found = self.client.run(protocol.read_counts(self.client.context, keys))
        return {minute: self._read(told) for minute, told in zip(wanted, found, strict=True)}

    def _read(self, told: Mapping[str, int] | RingCacheError) -> C | None:
        return None if isinstance(told, RingCacheError) else self.kind.from_dict(told)

    def in_all(self) -> C:
        """Return what was counted in all; raises what its node failed with."""
        [found] = self.client.run(protocol.read_counts(self.client.context, [self._key(ALL)], copies=1))
        if isinstance(found, RingCacheError):
            raise found
        return self.kind.from_dict(found)

    def _key(self, name: str) -> bytes:
        """Return the key of a minute, or of ALL; no alias' own keys look like it."""
        return f"{self.stem}:{name}".encode()


def _of_alias(alias: str) -> _Kept[Counts]:
    cache = ring_cache(alias)
    stem = f"ringcache:counts:{cache.key_prefix}:{alias}"  # the nodes may be another site's too
    return _Kept(cache.client, cache.client.counters, Counts, stem)


def _of_queue() -> _Kept[DrainCounts]:
    client = queue_client(write_behind_options())
    return _Kept(client, client.counters, DrainCounts, "ringcache:drains")


def publish_counts(alias: str) -> None:
    """Add what this process counted of an alias since the last time to the present minute."""
    _of_alias(alias).fold()


def publish_all(**_: Any) -> None:
    """Fold the counts of every alias, and of drains; never raises, for nobody waits for them."""
    for alias in ring_aliases():
        try:
            publish_counts(alias)
        except ConfigurationError:
            continue  # it counted nothing; its faults are told by who uses it, and by the checks
        except Exception:
            logger.exception("the counts of %r could not be folded", alias)
    try:
        if write_behind_options().nodes:
            _of_queue().fold()
    except Exception:
        logger.exception("the counts of drains could not be folded")


def counts_by_minute(alias: str, minutes: int) -> dict[int, Counts | None]:
    """Return the counts of all processes for each of the last minutes, the oldest first.

    Args:
        alias: The cache alias.
        minutes: How many, the present one included; at most a day's are kept.

    Returns:
        Counts by minute since 1970; None for a minute that cannot be seen, as neither of the
        two nodes that keep it answers.
    """
    return _of_alias(alias).by_minute(minutes)


def counts_in_all(alias: str) -> Counts:
    """Return what all processes have counted; it begins anew when the node that keeps it does.

    Raises:
        RingCacheError: That node did not answer.
    """
    return _of_alias(alias).in_all()


def drains_by_minute(minutes: int) -> dict[int, DrainCounts | None]:
    """Return what drains counted for each of the last minutes, as ``counts_by_minute`` does.

    Raises:
        ConfigurationError: Write-behind is off.
    """
    return _of_queue().by_minute(minutes)


def drains_in_all() -> DrainCounts:
    """Return what all drains have counted.

    Raises:
        ConfigurationError: Write-behind is off.
        RingCacheError: The node that keeps it did not answer.
    """
    return _of_queue().in_all()
