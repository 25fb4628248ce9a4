"""The counters of all processes: each process adds its own to hashes on the nodes.

A process publishes what it counted since it last published: every few seconds, and once more when
it ends (``shutdown``). There is a hash for each step of each period that charts show (``periods``), and one
for the total. So the sum over the minutes is what all processes counted; a process that is killed loses the
counts of its last seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from cachebackend import protocol
from cachebackend.backend.aliases import ring_cache
from cachebackend.backend.test_prefix import queue_options
from cachebackend.client import RingClient
from cachebackend.client.queue import QueueClient
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit, RateLimit
from cachebackend.conf import has_write_behind, ring_aliases
from cachebackend.counters import Counters, Counts, DrainCounts
from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.registry import queue_client
from cachebackend.telemetry.periods import PERIODS, Period
from cachebackend.telemetry.query_counts import publish_query_counts, total_query_counts
from cachebackend.telemetry.totals import Total, read_counts

__all__ = [
    "counts_by_step",
    "level_all",
    "lost_steps",
    "lost_write_steps",
    "publish_all",
    "publish_counts",
    "publish_write_counts",
    "total_counts",
    "total_drains",
    "writes_by_step",
]

logger = logging.getLogger("cachebackend")
#: The name of the hash of the total.
TOTAL = "all"
#: For how many seconds the total is kept after the last time it was added to: three months.
KEEP_TOTAL_SECONDS = 90 * 24 * 3600
#: Seconds after the end of a step, after which no process adds to it any more.
SETTLED_SECONDS = 10.0
#: Seconds between two runs of ``level_all`` in a process.
LEVEL_SECONDS = 60.0

#: The field of a step that says that a process published in it.
MARK = "published"
#: For the counters of each client the step that this process marked last, by the period and the keys' stem.
_marked: WeakKeyDictionary[Counters[Any], dict[tuple[str, str], str]] = WeakKeyDictionary()

C = TypeVar("C", Counts, DrainCounts)
_refusals = LogRateLimit(SYSTEM_CLOCK)
_levels = RateLimit(SYSTEM_CLOCK, LEVEL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Publication(Generic[C]):
    """The counters of one client, and the hashes that they are published to.

    Each hash is on two nodes, so that a dead node hides none. One may be refused while the other is not, so
    this process remembers separately what it has published to each period and to the total.

    Attributes:
        client: The client of the nodes that store the hashes.
        counters: The counters.
        kind: Their group.
        stem: The beginning of the keys of the hashes.
    """

    client: RingClient | QueueClient
    counters: Counters[C]
    kind: type[C]
    stem: str

    def publish(self) -> None:
        """Add what this process counted since the last time to the current steps, and to the total.

        The first time in each step, this process adds a mark. So a step without any count and without a mark
        is one whose counts were lost, or in which no process ran.
        """
        marked = _marked.setdefault(self.counters, {})
        for period in PERIODS.values():
            name = period.key(int(time.time()) // period.seconds)
            marks = {} if marked.get((self.stem, period.name)) == name else {MARK: 1}
            if self._add(name, period.name, period.keep_seconds, marks):
                marked[self.stem, period.name] = name
        self._add(TOTAL, TOTAL, KEEP_TOTAL_SECONDS, {})

    def _add(self, name: str, ledger: str, keep_seconds: int, marks: dict[str, int]) -> bool:
        """Add what this process counted, and marks; return whether a node may have taken them."""
        counts = self.counters.take_new(ledger)
        if not counts and not marks:
            return True
        adding = protocol.telemetry.add_counts(
            self.client.context, self._key(name), counts | marks, keep_seconds
        )
        error = self.client.run(adding)
        if error is None:
            return True
        self.counters.put_back(ledger, counts)
        # The breaker logs a node that does not answer; a refusal is logged here
        if isinstance(error, NodeReplyError) and _refusals.to_log():
            extra = {"event": "fold_refused", "error": str(error)}
            logger.warning("%s; the counts of %s are published later", error, self.stem, extra=extra)
        return False

    def by_step(self, period: Period, count: int) -> dict[int, C | None]:
        """Return the counts of each of the last steps, the oldest first; None if they are not known.

        A step that is over gets back what one of its copies lacks, before the other one is lost.
        """
        now = int(time.time()) // period.seconds
        settled = int(time.time() - SETTLED_SECONDS) // period.seconds
        keys: dict[int, bytes] = {
            number: self._key(period.key(number)) for number in range(now - count + 1, now + 1)
        }
        over = {key for number, key in keys.items() if number < settled}
        stored = self.client.run(
            protocol.telemetry.read_counts(self.client.context, [*keys.values()], over, period.keep_seconds)
        )
        return {number: self._read(each) for number, each in zip(keys, stored, strict=True)}

    def lost(self, period: Period, numbers: Collection[int]) -> set[int]:
        """Return the steps that have no mark of a process: their counts were evicted, or lost with a node.

        The present step is known: this process counts in it.
        """
        present = int(time.time()) // period.seconds
        numbers = [number for number in numbers if number != present]
        if not numbers:
            return set()
        keys = [self._key(period.key(number)) for number in numbers]
        stored = self.client.run(protocol.telemetry.read_counts(self.client.context, keys))
        return {
            number
            for number, each in zip(numbers, stored, strict=True)
            if isinstance(each, RingCacheError) or not each.counts
        }

    def _read(self, stored: protocol.telemetry.StoredCounts | RingCacheError) -> C | None:
        """Return the counts of a step; nothing on one node says nothing, if the other one is away."""
        if isinstance(stored, RingCacheError) or (stored.missing and not stored.counts):
            return None
        return self.kind.from_dict(stored.counts)

    def total(self) -> Total[C]:
        """Return the total; raises the error of its nodes if none answers."""
        return read_counts(self.client, self._key(TOTAL), KEEP_TOTAL_SECONDS, self.kind)

    def level(self) -> None:
        """Give each copy back what it lacks, of the total and of all steps that are over."""
        self.total()
        for period in PERIODS.values():
            self.by_step(period, period.steps)

    def _key(self, name: str) -> bytes:
        """Return the key of a step's hash, or of the total's; no alias' own keys look like it."""
        return f"{self.stem}:{name}".encode()


def _of_alias(alias: str) -> _Publication[Counts]:
    cache = ring_cache(alias)
    stem = f"ringcache:counts:{cache.key_prefix}:{alias}"  # another site may use the same nodes
    return _Publication(cache.client, cache.client.counters, Counts, stem)


def _of_queue() -> _Publication[DrainCounts]:
    """Return the counters of write-behind.

    The first ring cache stores them, because a queue node may be full or away. Without a ring cache, the
    queue nodes store them.
    """
    client = queue_client(queue_options())
    alias = next(iter(ring_aliases()), None)
    if alias is None:
        return _Publication(client, client.counters, DrainCounts, f"ringcache:drains:{client.options.prefix}")
    cache = ring_cache(alias)
    return _Publication(cache.client, client.counters, DrainCounts, f"ringcache:drains:{cache.key_prefix}")


def publish_counts(alias: str) -> None:
    """Publish what this process counted of an alias, and of its queries, since the last time."""
    _of_alias(alias).publish()
    publish_query_counts(alias)


def publish_write_counts() -> None:
    """Publish what this process counted of write-behind since the last time.

    Raises:
        ConfigurationError: Write-behind is off.
    """
    _of_queue().publish()


def publish_all() -> None:
    """Publish the counts of every alias, and of write-behind; never raises."""
    for alias in ring_aliases():
        _attempt(partial(publish_counts, alias), f"the counts of {alias!r} could not be published")
    _attempt(_publish_write_counts_if_on, "the counts of write-behind could not be published")


def level_all() -> None:
    """Give each copy of all counts back what it lacks, if that was not done for a minute; never raises.

    Without it a count would fall when a node is lost, if the other node was emptied before that and nobody
    read the count in between. The relay calls it.
    """
    if not _levels.allows():
        return
    for alias in ring_aliases():
        _attempt(partial(_level_alias, alias), f"the copies of the counts of {alias!r} could not be compared")
    _attempt(_level_queue, "the copies of the counts of write-behind could not be compared")


def _publish_write_counts_if_on() -> None:
    if has_write_behind():
        publish_write_counts()


def _level_alias(alias: str) -> None:
    _of_alias(alias).level()
    total_query_counts(alias)


def _level_queue() -> None:
    if has_write_behind():
        _of_queue().level()


def _attempt(act: Callable[[], None], failure: str) -> None:
    """Call a function; log the failure if nothing else reports its error. Never raises."""
    try:
        act()
    except RingCacheError:
        return  # the breaker logs a node that does not answer, and the checks report wrong settings
    except Exception as error:
        raise_interrupt(error)
        logger.exception(failure)


def counts_by_step(alias: str, period: Period, count: int | None = None) -> dict[int, Counts | None]:
    """Return the counts of all processes for each step of a period, the oldest first.

    Args:
        alias: The cache alias.
        period: The period.
        count: How many steps, the current one included; by default those of the period.

    Returns:
        Counts by the number of the step; None for a step of which neither of its two nodes answers, or only
        one of them, which has no counts.
    """
    return _of_alias(alias).by_step(period, count or period.steps)


def lost_steps(alias: str, period: Period, numbers: Collection[int]) -> set[int]:
    """Return those of some steps whose counts were lost: with their nodes, or because they were evicted.

    A step in which no process ran is one of them.
    """
    return _of_alias(alias).lost(period, numbers)


def lost_write_steps(period: Period, numbers: Collection[int]) -> set[int]:
    """Return which steps of the counters of write-behind were lost, as ``lost_steps``.

    Raises:
        ConfigurationError: Write-behind is off.
    """
    return _of_queue().lost(period, numbers)


def total_counts(alias: str) -> Total[Counts]:
    """Return what all processes have counted of an alias.

    Raises:
        RingCacheError: Neither of its two nodes answered.
    """
    return _of_alias(alias).total()


def writes_by_step(period: Period, count: int | None = None) -> dict[int, DrainCounts | None]:
    """Return what write-behind counted in each step of a period, as ``counts_by_step``.

    Raises:
        ConfigurationError: Write-behind is off.
    """
    return _of_queue().by_step(period, count or period.steps)


def total_drains() -> Total[DrainCounts]:
    """Return what all processes have counted of write-behind.

    Raises:
        ConfigurationError: Write-behind is off.
        RingCacheError: Neither of its two nodes answered.
    """
    return _of_queue().total()
